"""Policy configuration: bounds on columns, label thresholds, near-duplicates, balance and target fraction."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from cogvideox.errors import UserError
from cogvideox.filter_policy.rows import Rows
from cogvideox.filter_policy.schedule import Schedule, Threshold, knots_of, value_at

VERSION = 1
LABEL_PREFIX = "labels."
"""Prefix of the columns of label probabilities, such as `labels.editing`."""


@dataclass(frozen=True)
class Bound:
    """A condition on one column that applies in a range of steps. Thresholds may be functions of the step.

    Attributes:
        column: name of the column.
        at_least, at_most: range of values to keep, interpreted according to `scale`.
        scale: "value": thresholds are values of the column; "quantile": fractions of the rows that have a value, so
            at_least=0.8 keeps the best 20%.
        best: fraction of rows with the highest values to keep, the same as at_least=1-best with scale="quantile". Rows
            tied with the lowest kept value are kept too.
        among: allowed strings.
        keep_missing: whether to keep videos without a value. Images without a value are always kept, because signals
            such as motion do not apply to them.
        media: kind of rows that the bound applies to; all other rows pass.
        from_step, to_step: the condition applies from `from_step` up to but excluding `to_step` (None: no end).

    Raises:
        UserError: the bound has no condition, or a condition that no row can satisfy.
    """

    column: str
    at_least: Threshold | None = None
    at_most: Threshold | None = None
    best: Threshold | None = None
    among: tuple[str, ...] = ()
    keep_missing: bool = False
    from_step: int = 0
    to_step: int | None = None
    scale: Literal["value", "quantile"] = "value"
    media: Literal["all", "videos", "images"] = "all"

    def __post_init__(self) -> None:
        numeric = [value for value in (self.at_least, self.at_most, self.best) if value is not None]
        constants = [value for value in numeric if not isinstance(value, Schedule)]
        if bool(numeric) == bool(self.among) or any(map(math.isnan, constants)):
            raise UserError(f"the bound on {self.column} needs at_least, at_most or best (numbers) or among (strings)")
        if self.best is not None and not all(0 < value <= 1 for value in _values(self.best)):
            raise UserError(f"best={self.best} of the bound on {self.column} must be in (0, 1]; 0.2 keeps the best 20%")
        if self.best is not None and self.at_least is not None:
            raise UserError(f"the bound on {self.column} has both best and at_least: use two bounds")
        if self.scale == "quantile":
            levels = [v for value in (self.at_least, self.at_most) if value is not None for v in _values(value)]
            if not all(0 <= level <= 1 for level in levels):
                raise UserError(
                    f"the quantiles of the bound on {self.column} must be in [0, 1]; 0.8 keeps the best 20%"
                )
        if self.at_least is not None and self.at_most is not None:
            for step in {0, *self.knots}:
                low, high = value_at(self.at_least, step), value_at(self.at_most, step)
                if low > high:
                    at_step = f" at step {step}" if self.knots else ""
                    raise UserError(
                        f"the bound on {self.column} has at_least={low} above at_most={high}{at_step}; no row can pass"
                    )
        if self.from_step < 0 or (self.to_step is not None and self.to_step <= self.from_step):
            raise UserError(f"the bound on {self.column} never applies: from_step={self.from_step} to {self.to_step}")

    @property
    def is_resolved(self) -> bool:
        """Whether the bound is independent of other rows."""
        return self.best is None and self.scale == "value"

    @cached_property
    def knots(self) -> tuple[int, ...]:
        """Steps between which the thresholds are linear, including the last step before each jump."""
        jumps = [step for step in (self.from_step, self.to_step) if step]
        scheduled = [knot for threshold in (self.at_least, self.at_most, self.best) for knot in knots_of(threshold)]
        return tuple(sorted({*scheduled, *jumps, *(step - 1 for step in jumps)}))

    def applies_at(self, step: int) -> bool:
        """Return whether the bound applies at a training step."""
        return self.from_step <= step and (self.to_step is None or step < self.to_step)

    def limits_at(self, step: int) -> tuple[float, float]:
        """Return the lowest and highest value that a resolved numeric bound keeps at a step."""
        low = -math.inf if self.at_least is None else value_at(self.at_least, step)
        high = math.inf if self.at_most is None else value_at(self.at_most, step)
        return low, high

    def between(self, first: int, last: int) -> "Bound":
        """Return a constant bound that keeps every row that this resolved bound keeps at any step in a range.

        The thresholds must be linear, and the bound must apply or not apply throughout, from `first` to `last`.
        """
        if self.among:
            return self
        (low, high), (last_low, last_high) = self.limits_at(first), self.limits_at(last)
        return replace(self, at_least=min(low, last_low), at_most=max(high, last_high))

    def mask(self, rows: Rows, step: int = 0) -> Bool[np.ndarray, " rows"]:
        """Return a mask of the rows that a resolved bound keeps at a step.

        Raises:
            UserError: the bound is numeric, but the column contains strings.
        """
        assert self.is_resolved, "call resolve() first"
        if not self.applies_at(step):
            return np.ones(rows.num_rows, dtype=bool)
        if self.among:
            values = rows.strings(self.column)
            missing, kept = values == "", np.isin(values, self.among)
        else:
            numbers, (low, high) = rows.numbers(self.column), self.limits_at(step)
            missing, kept = np.isnan(numbers), (numbers >= low) & (numbers <= high)
        kept |= missing & (rows.is_image | self.keep_missing)
        if self.media != "all":
            kept |= rows.is_image == (self.media == "videos")
        return kept


@dataclass(frozen=True)
class Balance:
    """A limit on the size of each cluster of clips.

    Attributes:
        column: column with the cluster of each clip, a string or a number. Rows without a cluster are not limited.
        max_fraction: largest fraction of the kept rows that one cluster may have; with fewer than 1 / max_fraction
            clusters, all clusters are limited to the same size.
        prefer: numeric column whose highest values are kept first; None keeps a random subset that depends only on the
            clip ids.

    Raises:
        UserError: max_fraction is out of range.
    """

    column: str = "cluster"
    max_fraction: float = 0.1
    prefer: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.max_fraction <= 1:
            raise UserError(f"balance.max_fraction={self.max_fraction} must be in (0, 1]; 0.1 allows 10% per cluster")


@dataclass(frozen=True)
class Target:
    """Adaptive bounds, whose thresholds are set so that a fraction of all rows is kept.

    All thresholds are at the same quantile of their column. The quantile is determined after all other bounds and the
    removal of near-duplicates, so the fraction is exact (except for ties) if enough rows pass these conditions.

    Attributes:
        fraction: fraction of all rows to keep; may be scheduled.
        high: columns whose lowest values are dropped, such as the aesthetic score.
        low: columns whose highest values are dropped, such as the area of text.

    Raises:
        UserError: the fraction is out of range, there are no columns, or a column is in both lists.
    """

    fraction: Threshold
    high: tuple[str, ...] = ()
    low: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 < value <= 1 for value in _values(self.fraction)):
            raise UserError(f"target.fraction={self.fraction} must be in (0, 1]; 0.2 keeps 20% of the rows")
        if both := sorted({*self.high} & {*self.low}):
            raise UserError(f"target has {', '.join(both)} in both high and low: remove one")
        if not self.high and not self.low:
            raise UserError("target needs columns: high (drops low values) or low (drops high values)")


@dataclass(frozen=True)
class Resolution:
    """Record of the rows on which quantiles were resolved to values.

    Attributes:
        num_rows: number of rows.
        columns: hash of each column on which quantiles were resolved.
        original: the policy before it was resolved, as plain data.
    """

    num_rows: int
    columns: dict[str, str]
    original: dict[str, Any]


@dataclass(frozen=True)
class Policy:
    """Conditions that a row must satisfy to be kept. A policy without conditions keeps every row.

    A policy is plain configuration and a pure function of rows and training step, so all ranks and resumed runs keep
    the same rows.

    Attributes:
        bounds: conditions on single columns.
        labels: highest probability to keep per label: at_most of a bound on the column "labels.NAME".
        drop_duplicates: whether to keep only one clip per group of near-duplicates (column "duplicate_of"): the clip
            that curation chose or, if the bounds drop this clip, a different clip of the group.
        balance: limit on the size of each cluster, applied last.
        target: adaptive bounds.
        version: version of the policy format.
        resolved: record of how quantiles were resolved; written by `resolve`.

    Raises:
        UserError: the version is not supported, or settings contradict each other.
    """

    bounds: tuple[Bound, ...] = ()
    labels: dict[str, Threshold] = field(default_factory=dict)
    drop_duplicates: bool = True
    balance: Balance | None = None
    target: Target | None = None
    version: int = VERSION
    resolved: Resolution | None = None

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise UserError(f"the policy has version {self.version}; this cogvideox supports version {VERSION}")
        if self.balance is not None and self.target is not None:
            raise UserError(
                "a policy cannot have both balance and target, because balancing would change the kept fraction: "
                "remove one of them"
            )
        for name, threshold in self.labels.items():
            if not all(0 <= value <= 1 for value in _values(threshold)):
                raise UserError(f"labels.{name}={threshold} must be a probability in [0, 1]")

    @cached_property
    def conditions(self) -> tuple[Bound, ...]:
        """All bounds, including label bounds."""
        labels = (Bound(LABEL_PREFIX + name, at_most=threshold) for name, threshold in self.labels.items())
        return (*self.bounds, *labels)

    @property
    def keeps_all(self) -> bool:
        """Whether the policy has no conditions except the removal of near-duplicates."""
        return replace(self, drop_duplicates=True) == Policy()

    @property
    def is_resolved(self) -> bool:
        """Whether all thresholds are values."""
        return self.target is None and all(bound.is_resolved for bound in self.bounds)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that must exist, without duplicates."""
        names = [bound.column for bound in self.conditions]
        names += [*self.target.high, *self.target.low] if self.target else []
        names += [name for name in (self.balance.column, self.balance.prefer) if name] if self.balance else []
        return tuple(dict.fromkeys(names))

    @property
    def knots(self) -> tuple[int, ...]:
        """Steps between which all thresholds are linear, starting with 0."""
        target = knots_of(self.target.fraction) if self.target else ()
        return tuple(sorted({0, *target, *(knot for bound in self.conditions for knot in bound.knots)}))

    def check_columns(self, columns: Iterable[str]) -> None:
        """Check that all columns exist.

        Raises:
            UserError: a column does not exist; the message suggests the most similar existing column.
        """
        names = sorted(set(columns))
        for column in self.columns:
            if column not in names:
                close = difflib.get_close_matches(column, names, n=1)
                instead = f"did you mean {close[0]}?" if close else f"available: {', '.join(names) or 'none'}"
                raise UserError(f"bound on unknown column {column}; {instead}")


def _values(threshold: Threshold) -> tuple[float, ...]:
    return threshold.values if isinstance(threshold, Schedule) else (threshold,)
