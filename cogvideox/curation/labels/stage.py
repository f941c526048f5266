"""The `labels` stage: predicts the negative labels from signal columns, as probability columns of the manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.model_file import load_model
from cogvideox.curation.stage import Column
from cogvideox.errors import UserError


@dataclass(frozen=True)
class Labels:
    """Stage that predicts the labels of all clips when the manifest is assembled.

    Attributes:
        model: path of a model written by `cogvideox labels train`; empty disables the stage.
    """

    name: ClassVar[str] = "labels"
    version: ClassVar[int] = 1

    model: str = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns that the stage writes: one per label of the model."""
        if not self.model:
            return ()
        return tuple(
            Column(label.column, "float", f"Probability of the label: {label.title}.", "", 0.0, 1.0)
            for name, label in LABELS.items()
            if name in load_model(self.model).heads
        )

    def check(self, columns: Sequence[str]) -> None:
        """Check that the model exists and that `columns` contains the columns that the model reads.

        Raises:
            UserError: the model cannot be read, or a column is missing.
        """
        if not self.model:
            return
        model = load_model(self.model)
        required = [*model.columns, *([model.embedding] if model.embedding else [])]
        if missing := [name for name in required if name not in columns]:
            signals = ", ".join(sorted({name.partition(".")[0] for name in missing}))
            raise UserError(f"labels.model={self.model} reads columns of signals that are not enabled: {signals}")

    def weights_hash(self) -> str:
        """Return a hash of the model file; empty without a model."""
        import hashlib

        return hashlib.sha256(Path(self.model).read_bytes()).hexdigest() if self.model else ""

    def predict(self, columns: Mapping[str, Any]) -> dict[str, list[float | None]]:
        """Return the probabilities of all rows by column name; None for unmeasured rows."""
        if not self.model:
            return {}
        probabilities = load_model(self.model).predict_columns(columns)
        return {
            LABELS[name].column: [None if np.isnan(value) else value for value in values.tolist()]
            for name, values in probabilities.items()
        }
