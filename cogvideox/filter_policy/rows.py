"""Rows that a policy selects from: columns of a table of clips, as arrays."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64

from cogvideox.errors import UserError

Column = Sequence[float | int | str | None] | np.ndarray
Columns = Mapping[str, Column]
"""Columns of a table of clips by name. None, NaN and "" (in a column of strings) are missing values."""

ID_COLUMNS = ("id", "clip")
"""Names of the clip id column: in a manifest, and in a latent store, whose rows may be windows of clips."""


class Rows:
    """Columns of a table, converted to arrays on first use."""

    def __init__(self, columns: Columns, num_rows: int) -> None:
        self.columns, self.num_rows = columns, num_rows
        self._numbers: dict[str, np.ndarray] = {}
        self._strings: dict[str, np.ndarray] = {}

    def numbers(self, name: str) -> Float64[np.ndarray, " rows"]:
        """Return a numeric column with NaN for missing values. All values of an absent column are NaN.

        Raises:
            UserError: the column has strings.
        """
        if name not in self._numbers:
            self._numbers[name] = self._to_numbers(name)
        return self._numbers[name]

    def strings(self, name: str) -> np.ndarray:
        """Return a column as an array of strings with "" for missing values."""
        if name not in self._strings:
            column = self.columns.get(name)
            if column is None:
                self._strings[name] = np.full(self.num_rows, "")
            elif isinstance(column, np.ndarray) and column.dtype.kind == "U":
                self._strings[name] = column
            else:
                self._strings[name] = np.array(["" if _is_missing(value) else str(value) for value in column])
        return self._strings[name]

    @cached_property
    def is_image(self) -> Bool[np.ndarray, " rows"]:
        """Mask of the rows that are images, that is, clips of one frame."""
        if "is_image" in self.columns:
            return self.numbers("is_image") == 1
        return self.numbers("num_frames") == 1

    @cached_property
    def ids(self) -> np.ndarray | None:
        """Clip id of each row; None if there is no id column."""
        name = next((name for name in ID_COLUMNS if name in self.columns), None)
        return None if name is None else self.strings(name)

    def _to_numbers(self, name: str) -> np.ndarray:
        column = self.columns.get(name)
        if column is None:
            return np.full(self.num_rows, math.nan)
        try:
            if not isinstance(column, np.ndarray) or column.dtype.kind == "O":
                column = [math.nan if value is None else value for value in column]
            return np.asarray(column, dtype=np.float64)
        except ValueError:
            raise UserError(f"the bound on {name} needs numbers, but the column has strings: use 'among'") from None


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
