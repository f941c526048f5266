"""Input features of label classifiers: numeric signals and an embedding.

Axes: `n` clips, `d` features.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64

from cogvideox.curation.labels.definitions import LABELS, PREFIX
from cogvideox.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

EMBEDDING = "tags.embedding"
"""Column of the embedding, which the signal `tags` writes."""

EXCLUDED = ("picture.bits_per_pixel",)
"""Columns that depend more on the encoder's settings than on the picture."""


def signal_columns(table: "pa.Table") -> tuple[str, ...]:
    """Return the numeric signal columns of a manifest, without the columns of label probabilities."""
    import pyarrow as pa

    numeric = (pa.float64(), pa.float32(), pa.int64(), pa.bool_())
    return tuple(
        field.name
        for field in table.schema
        if "." in field.name
        and not field.name.startswith(PREFIX)
        and field.name not in EXCLUDED
        and field.type in numeric
    )


def check_columns(table: "pa.Table", columns: Sequence[str], embedding: str = "") -> None:
    """Check that a manifest has the columns that a model reads.

    Raises:
        UserError: a column is missing; the message names the signals that write the missing columns.
    """
    required = [*columns, embedding] if embedding else columns
    if missing := [name for name in required if name not in table.column_names]:
        signals = ", ".join(sorted({name.partition(".")[0] for name in missing}))
        raise UserError(
            f"the manifest has no columns {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}: "
            f"run `cogvideox curate` with the signals {signals}"
        )


def signal_matrix(columns: Mapping[str, Any], names: Sequence[str]) -> Float64[np.ndarray, "n d"]:
    """Return numeric columns as a matrix; missing values are NaN.

    Args:
        columns: Arrow arrays or sequences, by name.
    """
    return np.stack([_numbers(columns[name]) for name in names], axis=1)


def embedding_matrix(column: Any, size: int | None = None) -> Float32[np.ndarray, "n d"]:
    """Return a column of lists as a matrix; rows without an embedding are 0.

    Args:
        size: length of the embeddings if no row has an embedding.

    Raises:
        UserError: no row has an embedding, or their lengths differ.
    """
    rows = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    lengths = {len(row) for row in rows if row is not None}
    if not lengths and size is not None:
        lengths = {size}
    if len(lengths) != 1:
        problem = "of different lengths" if lengths else "of no clip"
        raise UserError(f"the manifest has embeddings {problem}: run `cogvideox curate` again with the signal tags")
    zeros = np.zeros(lengths.pop(), np.float32)
    return np.stack([zeros if row is None else np.asarray(row, np.float32) for row in rows])


def truth_columns(
    ids: Sequence[str], labels: Mapping[str, Mapping[str, bool | None]]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Return the ground truth of each label for these clips: 1, 0, or NaN if it is not known.

    Args:
        labels: labels of the annotated clips, such as the result of `AnnotationStore.majority()`.
    """
    unknown: Mapping[str, bool | None] = {}
    return {
        name: np.array([_as_number(labels.get(clip_id, unknown).get(name)) for clip_id in ids], np.float64)
        for name in LABELS
    }


def _as_number(value: bool | None) -> float:
    return np.nan if value is None else float(value)


def _numbers(column: Any) -> Float64[np.ndarray, " n"]:
    values = column.to_pylist() if hasattr(column, "to_pylist") else column
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
