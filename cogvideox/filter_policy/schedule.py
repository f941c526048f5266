"""Thresholds that are constant or piecewise functions of the training step."""

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cogvideox.errors import UserError

POINTS_PER_SEGMENT = 32
"""Number of points between two knots at which a scheduled quantile is converted to values."""


@dataclass(frozen=True)
class Schedule:
    """A piecewise function of the training step, constant before the first and after the last knot.

    Attributes:
        steps: training steps, ascending.
        values: value at each of these steps.
        interpolation: "linear" between two steps, or "constant": each value holds until the next step.

    Raises:
        UserError: steps and values differ in length, or the steps are not ascending.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    interpolation: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.values):
            raise UserError(
                f"a schedule needs a value for each step, got {len(self.steps)} steps and {len(self.values)} values"
            )
        if self.steps[0] < 0 or any(a >= b for a, b in pairwise(self.steps)):
            raise UserError(f"the steps of a schedule must be ascending and at least 0, not {list(self.steps)}")
        if not all(map(math.isfinite, self.values)):
            raise UserError(f"the values of a schedule must be finite numbers, not {list(self.values)}")

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        after = bisect.bisect_right(self.steps, step)
        if after == 0:
            return self.values[0]
        if after == len(self.steps) or self.interpolation == "constant":
            return self.values[after - 1]
        start, end = self.steps[after - 1 : after + 1]
        low, high = self.values[after - 1 : after + 1]
        return low + (high - low) * ((step - start) / (end - start))

    def knots(self) -> tuple[int, ...]:
        """Return the steps between which the function is linear, including the last step before each jump."""
        if self.interpolation == "linear":
            return self.steps
        return tuple(sorted({knot for step in self.steps for knot in (max(step - 1, 0), step)}))


Threshold = float | Schedule


def value_at(threshold: Threshold, step: int) -> float:
    """Return the value of a threshold at a step."""
    return threshold(step) if isinstance(threshold, Schedule) else threshold


def knots_of(threshold: Threshold | None) -> tuple[int, ...]:
    """Return the steps between which a threshold is linear; empty for a constant threshold."""
    return threshold.knots() if isinstance(threshold, Schedule) else ()


def grid(knots: Iterable[int]) -> list[int]:
    """Return the knots and evenly spaced steps between the knots."""
    knots = sorted({0, *knots})
    steps = set(knots)
    for start, end in pairwise(knots):
        spacing = max(1, -(-(end - start) // POINTS_PER_SEGMENT))
        steps.update(range(start, end, spacing))
    return sorted(steps)
