"""Stages of curation: what a stage declares, and the fingerprint that decides when its columns are computed again.

A stage is a frozen dataclass: its fields are its parameters, and class variables declare the rest. It works on one row
at a time. A row is a file or a clip, and has the columns that earlier stages wrote.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from cogvideox import config

Value = Any
"""A value of a column: None (missing) or what `Column.type` says."""

Row = Mapping[str, Value]

ColumnType = Literal["float", "int", "bool", "str", "floats", "ints", "clips"]
"""Types of columns; "floats" and "ints" are lists, "clips" is the list of clips that a file is split into."""


@dataclass(frozen=True)
class Column:
    """A column that a stage writes.

    Attributes:
        unit: unit of the values, such as "s" or "pixels"; empty for numbers without one and for text.
        low, high: smallest and largest possible value; None if there is no bound.
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
        version: increased when the same parameters give other values.
        reads: columns that the values depend on, in addition to the content of the file or clip.
        columns: columns it writes.
        memory: bytes that a worker needs for its models and buffers.
        cost: typical processor seconds per second of video.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    reads: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[Column, ...]]
    memory: ClassVar[int]
    cost: ClassVar[float]

    def missing_requirements(self) -> list[str]:
        """Return what this stage needs and does not find (packages, codecs, model files), each with a remedy."""
        ...

    def weights_hash(self) -> str:
        """Return a hash of the model files that the values depend on; empty if there are none."""
        ...

    def open(self) -> Callable[[Row], Mapping[str, Value]]:
        """Load models, once per worker, and return the function that computes the columns of one row.

        The function raises `UserError` for a row that cannot be used, which is final; any other exception is retried.
        """
        ...


def fingerprint(stage: Any, stages: Iterable[Any] = ()) -> str:
    """Return a hash of everything that the values of a stage or signal depend on, except the content of the files.

    Args:
        stages: all stages; those that write columns it reads are included.
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
    """Check that no two stages write the same column, and that columns read are written by an earlier stage.

    Raises:
        ValueError: a stage declares its columns wrongly.
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
