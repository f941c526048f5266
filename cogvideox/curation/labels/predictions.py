"""Read and write Parquet tables of label probabilities, shared by all label classifiers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from cogvideox.atomic_io import atomic_write
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

_KEY = b"cogvideox.labels.thresholds"


def write_predictions(
    ids: Sequence[str],
    probabilities: Mapping[str, Float64[np.ndarray, " n"]],
    thresholds: Mapping[str, float],
    path: str | Path,
) -> None:
    """Write a Parquet table: clip_id, and a column of probabilities per label (null where there is no prediction)."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"clip_id": pa.array(list(ids), pa.string())}
    for name, values in probabilities.items():
        columns[LABELS[name].column] = pa.array(values, pa.float64(), from_pandas=True)  # NaN becomes null
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(dict(thresholds)).encode()})
    with atomic_write(path) as temporary:
        parquet.write_table(table, temporary)


def read_predictions(
    path: str | Path, ids: Sequence[str]
) -> tuple[dict[str, Float64[np.ndarray, " n"]], dict[str, float]]:
    """Return the probabilities of these clips (NaN where there is no prediction) and the thresholds.

    Raises:
        UserError: the file does not exist or is not a table of predictions.
    """
    from pyarrow import parquet

    path = Path(path)
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file; `cogvideox labels predict` writes one")
    with reading(path, "not a table of predicted labels"):
        table = parquet.read_table(path)
        thresholds = json.loads((table.schema.metadata or {})[_KEY])
        rows = {clip_id: row for row, clip_id in enumerate(table["clip_id"].to_pylist())}
        probabilities = {}
        for name, label in LABELS.items():
            if label.column in table.column_names:
                values = table[label.column].to_pylist()
                selected = [values[rows[clip_id]] if clip_id in rows else None for clip_id in ids]
                probabilities[name] = np.array([np.nan if value is None else value for value in selected], np.float64)
        return probabilities, {name: float(thresholds[name]) for name in probabilities}
