"""Which rows count, at which step: bounds on columns of scores. Rows are never deleted for their scores.

A policy is plain settings, and what it keeps is a function of the columns and the step alone, so that every rank keeps
the same rows and a resumed run goes on with them. Imports no torch.
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
"""A table of clips by the names of its columns. None, NaN and, among texts, "" are scores that were not measured."""


@dataclass(frozen=True)
class Bound:
    """What one column has to be, from one step to another.

    column: its name. `text` columns have `among`; the others are for numbers.
    at_least, at_most: the smallest and the largest value that is kept.
    best: the share of rows that is kept, those with the largest values among all that have one: 0.2 is the best fifth.
        Rows that tie with the last of them are kept too.
    among: the values that are kept.
    keep_missing: whether a row without the score is kept, as images have no score of motion.
    from_step, to_step: the bound holds from the one on until before the other; None is for ever. So a bound that
        becomes stricter is two.

    Raises:
        UserError: nothing that it asks for, or what no row can satisfy.
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
        of_numbers = [value for value in (self.at_least, self.at_most, self.best) if value is not None]
        if bool(of_numbers) == bool(self.among) or any(map(math.isnan, of_numbers)):
            raise UserError(f"the bound on {self.column} needs at_least, at_most or best, or, for texts, among")
        if self.best is not None and not 0 < self.best <= 1:
            raise UserError(f"best={self.best} of the bound on {self.column} is not in (0, 1]; 0.2 is the best fifth")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise UserError(f"nothing is at least {self.at_least} and at most {self.at_most}, as {self.column} should")
        if self.from_step < 0 or (self.to_step is not None and self.to_step <= self.from_step):
            raise UserError(f"the bound on {self.column} never holds: from_step={self.from_step} to {self.to_step}")

    def holds_at(self, step: int) -> bool:
        return self.from_step <= step and (self.to_step is None or step < self.to_step)

    def keeps(self, values: Column) -> Bool[np.ndarray, " rows"]:
        """Which rows of the column are kept.

        Raises:
            UserError: texts where there should be numbers.
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
            raise UserError(f"{self.column} holds texts, which have no order: bound it by among") from None


@dataclass(frozen=True)
class Policy:
    """Bounds that a row has to satisfy all. Without any, every row is kept."""

    bounds: tuple[Bound, ...] = ()

    def check(self, columns: Iterable[str]) -> None:
        """Whether every bound is on a column that there is.

        Raises:
            UserError: it is not; the message has the nearest name.
        """
        names = sorted(set(columns))
        for bound in self.bounds:
            if bound.column not in names:
                close = difflib.get_close_matches(bound.column, names, n=1)
                instead = f"did you mean {close[0]}?" if close else f"there are {', '.join(names) or 'none'}"
                raise UserError(f"there is no column {bound.column} to bound; {instead}")

    def phase(self, step: int) -> int:
        """The step since which what is kept has not changed."""
        changes = {step for bound in self.bounds for step in (bound.from_step, bound.to_step) if step is not None}
        return max((change for change in changes if change <= step), default=0)

    def keeps(self, columns: Columns, num_rows: int, step: int) -> Bool[np.ndarray, " rows"]:
        """Which rows of a table are kept at a step. A column that the table lacks was measured for none of its rows.

        Raises:
            UserError: texts where there should be numbers.
        """
        kept = np.ones(num_rows, dtype=bool)
        for bound in self.bounds:
            if bound.holds_at(step):
                kept &= bound.keeps(columns.get(bound.column, [None] * num_rows))
        return kept
