"""Label classifier files: one safetensors file with JSON metadata. Loading executes no code from the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.atomic_io import atomic_write
from cogvideox.curation.labels.classifier import Head, LabelModel
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.trees import TreeEnsemble
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

MODEL = "labels.safetensors"
"""File name of the model in a curation's output folder."""

_VERSION = 1
_KEY = "cogvideox.labels"
_SCALARS = ("bias", "slope", "intercept", "threshold", "num_positive", "num_negative")


def save_model(model: LabelModel, path: str | Path) -> None:
    """Write a model atomically. Raises UserError if the file cannot be written."""
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {"medians": model.medians, "scales": model.scales}
    heads: dict[str, Any] = {}
    for name, head in model.heads.items():
        tensors |= head.trees.tensors(f"{name}.trees.")
        if head.weights is not None:
            tensors[f"{name}.weights"] = head.weights
        heads[name] = {key: getattr(head, key) for key in _SCALARS}
    record = {
        "version": _VERSION,
        "kind": model.kind,
        "columns": model.columns,
        "embedding": model.embedding,
        "definitions": model.definitions,
        "test_fraction": model.test_fraction,
        "heads": heads,
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {_KEY: json.dumps(record)})


def load_model(path: str | Path) -> LabelModel:
    """Read a model.

    Raises:
        UserError: the file does not exist, or is not a label model of this format version.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file; `cogvideox labels train` writes a label model")
    with reading(path, "not a label model"):
        with safe_open(path, framework="numpy") as file:
            record = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if record.get("version") != _VERSION:
                raise UserError(f"cannot read {path}: it is not a label model with format version {_VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        columns = tuple(map(str, record["columns"]))
        heads = {}
        for name, scalars in record["heads"].items():
            if name not in LABELS:
                raise UserError(f"cannot read {path}: unknown label {name}; the labels are {', '.join(LABELS)}")
            trees = TreeEnsemble.from_tensors(tensors, f"{name}.trees.", len(columns))
            heads[name] = Head(trees, tensors.get(f"{name}.weights"), **{key: scalars[key] for key in _SCALARS})
        medians, scales = tensors["medians"], tensors["scales"]
        if not medians.shape == scales.shape == (len(columns),):
            raise ValueError("medians and scales do not match the columns")
        return LabelModel(
            *(record["kind"], columns, medians, scales, str(record["embedding"]), heads, int(record["definitions"])),
            float(record["test_fraction"]),
        )
