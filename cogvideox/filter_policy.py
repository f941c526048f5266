"""Filter policies: which clips to train on at each step, by bounds on their scores. Filtered rows are never deleted.

A policy is plain configuration. The rows it keeps depend only on the columns and the step, so all ranks and resumed
runs keep the same rows. Does not import torch.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from cogvideox.errors import UserError

Column = Sequence[float | int | str | None] | np.ndarray
Columns = Mapping[str, Column]
"""Columns of a table of clips by name. None, NaN and "" (in a column of strings) are missing scores."""


@dataclass(frozen=True)
class Bound:
    """A condition on one column that applies in a range of steps.

    Attributes:
        column: name of the column.
        at_least, at_most: range of numbers to keep.
        best: fraction of rows with the highest scores to keep: 0.2 keeps the best 20%. Rows tied with the last one are
            kept too. Rows without a score are ignored when computing the fraction.
        among: allowed strings.
        keep_missing: whether to keep rows without the score, such as images without a motion score.
        from_step, to_step: the condition applies from `from_step` up to but excluding `to_step` (None: until the end).

    Raises:
        UserError: no condition, or a condition that no row can satisfy.
    """

    column: str
    at_least: float | None = None
    at_most: float | None = None
    best: float | None = None
    among: tuple[str, ...] = ()
    keep_missing: bool = False
    from_step: int = 0
    to_step: int | None = None

    def __post_init__(self) -> None:
        numeric = [value for value in (self.at_least, self.at_most, self.best) if value is not None]
        if bool(numeric) == bool(self.among) or any(map(math.isnan, numeric)):
            raise UserError(f"the bound on {self.column} needs at_least, at_most or best (numbers) or among (strings)")
        if self.best is not None and not 0 < self.best <= 1:
            raise UserError(f"best={self.best} of the bound on {self.column} must be in (0, 1]; 0.2 keeps the best 20%")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise UserError(f"the bound on {self.column} has at_least={self.at_least} above at_most={self.at_most}")
        if self.from_step < 0 or (self.to_step is not None and self.to_step <= self.from_step):
            raise UserError(f"the bound on {self.column} never applies: from_step={self.from_step} to {self.to_step}")

    def applies_at(self, step: int) -> bool:
        """Return whether the bound applies at a training step."""
        return self.from_step <= step and (self.to_step is None or step < self.to_step)

    def mask(self, values: Column) -> Bool[np.ndarray, " rows"]:
        """Return a mask of the rows that are kept.

        Raises:
            UserError: the column has strings, but the condition is for numbers.
        """
        if self.among:
            missing = np.array([value in (None, "") for value in values], dtype=bool)
            kept = np.array([value in self.among for value in values], dtype=bool)
        else:
            numbers = self._numbers(values)
            missing, kept = np.isnan(numbers), np.ones(len(numbers), dtype=bool)
            known = np.sort(numbers[~missing])
            if self.best is not None and len(known):
                kept &= numbers >= known[-math.ceil(self.best * len(known))]
            kept &= numbers >= (-math.inf if self.at_least is None else self.at_least)
            kept &= numbers <= (math.inf if self.at_most is None else self.at_most)
        return np.where(missing, self.keep_missing, kept)

    def _numbers(self, values: Column) -> np.ndarray:
        try:
            return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
        except ValueError:
            raise UserError(
                f"the bound on {self.column} needs numbers, but the column has strings: use 'among'"
            ) from None


@dataclass(frozen=True)
class Policy:
    """Bounds that a row must satisfy to be kept. Without bounds every row is kept."""

    bounds: tuple[Bound, ...] = ()

    def check_columns(self, columns: Iterable[str]) -> None:
        """Check that the columns of all bounds exist.

        Raises:
            UserError: a column does not exist; the message names the nearest existing one.
        """
        names = sorted(set(columns))
        for bound in self.bounds:
            if bound.column not in names:
                close = difflib.get_close_matches(bound.column, names, n=1)
                instead = f"did you mean {close[0]}?" if close else f"available: {', '.join(names) or 'none'}"
                raise UserError(f"bound on unknown column {bound.column}; {instead}")

    def last_change(self, step: int) -> int:
        """Return the last step up to `step` at which the set of applicable bounds changed."""
        changes = {step for bound in self.bounds for step in (bound.from_step, bound.to_step) if step is not None}
        return max((change for change in changes if change <= step), default=0)

    def mask(self, columns: Columns, num_rows: int, step: int) -> Bool[np.ndarray, " rows"]:
        """Return a mask of the rows that are kept at a step. A missing column is treated as having no scores.

        Raises:
            UserError: a column has strings, but its bound is for numbers.
        """
        kept = np.ones(num_rows, dtype=bool)
        for bound in self.bounds:
            if bound.applies_at(step):
                kept &= bound.mask(columns.get(bound.column, [None] * num_rows))
        return kept
