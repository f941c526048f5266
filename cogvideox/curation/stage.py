"""Stages of a curation: what they declare, and the fingerprint that decides when their columns are recomputed.

A stage is a frozen dataclass: its fields are its parameters, and class variables declare the rest. It processes one row
at a time: a file or a clip, with the columns that earlier stages wrote.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Protocol

from cogvideox import config

Value = Any
"""A value of a column, of the type `Column.type`, or None if it is missing."""

Row = Mapping[str, Value]

ColumnType = Literal["float", "int", "bool", "str", "floats", "ints", "clips"]
"""Types of columns; "floats" and "ints" are lists, "clips" is the list of clips of a file."""


@dataclass(frozen=True)
class Column:
    """A column that a stage writes.

    Attributes:
        unit: unit of the values, such as "s" or "pixels"; empty for dimensionless numbers and strings.
        low, high: range of the values; None if it is unbounded.
        description: one sentence, shown in the documentation and in the funnel page.
    """

    name: str
    type: ColumnType
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None


class Stage(Protocol):
    """A step that adds columns to files or clips.

    Attributes:
        name: unique name, used in recipes and as the folder of its results.
        version: incremented when the same parameters give different values.
        reads: columns that the values depend on, in addition to the content of the file or clip.
        columns: columns it writes.
        memory: bytes that a worker needs for its models and buffers.
        cost: typical CPU seconds per second of video.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    reads: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[Column, ...]]
    memory: ClassVar[int]
    cost: ClassVar[float]

    def missing_requirements(self) -> list[str]:
        """Return a message for each missing package, codec or model file, with how to get it."""
        ...

    def weights_hash(self) -> str:
        """Return a hash of the model files that the values depend on; an empty string without models."""
        ...

    def open(self) -> Callable[[Row], Mapping[str, Value]]:
        """Load the models, once per worker, and return a function that computes the columns of one row.

        The function raises `UserError` if the row itself is at fault. Other exceptions are retried.
        """
        ...


def fingerprint(stage: Any, stages: Iterable[Any] = ()) -> str:
    """Return a hash of everything that the values of a stage or signal depend on, except the content of files.

    Args:
        stages: all stages, because the hash includes the fingerprints of those whose columns it reads.
    """
    stages = list(stages)
    reads = getattr(stage, "reads", ())
    sources = [
        other for other in stages if other is not stage and any(column.name in reads for column in other.columns)
    ]
    parts = [stage.name, stage.version, config.to_dict(stage), stage.weights_hash()]
    parts += sorted(fingerprint(source, stages) for source in sources)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def check_columns(stages: Sequence[Any]) -> None:
    """Check that each column has one writer, and that stages read only columns of earlier stages.

    Raises:
        ValueError: otherwise.
    """
    writers: dict[str, str] = {}
    for stage in stages:
        for column in getattr(stage, "reads", ()):
            if column not in writers:
                raise ValueError(f"stage {stage.name} reads {column}, which no earlier stage writes")
        for column in stage.columns:
            if column.name in writers:
                raise ValueError(f"{column.name} is written by both {writers[column.name]} and {stage.name}")
            writers[column.name] = stage.name


def missing_packages(extra: str, *modules: str) -> list[str]:
    """Return a message for each module that is not installed; `extra` is the extra that installs it."""
    return [
        f"{module} is not installed: pip install 'cogvideox[{extra}]'"
        for module in modules
        if find_spec(module) is None
    ]
