"""Explanation of a selection: result of each policy condition for one row, and the steps at which the row passes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cogvideox.filter_policy.duplicates import DUPLICATE_OF
from cogvideox.filter_policy.policy import Bound
from cogvideox.filter_policy.rows import Rows
from cogvideox.filter_policy.selector import Selector

Interval = tuple[int, int | None]
"""First and last step; a last step of None means until the end of training."""


@dataclass(frozen=True)
class Condition:
    """Result of one condition of a policy for a row.

    Attributes:
        name: column name, or name of the condition.
        value: value of the row; None if the value is missing.
        rule: human-readable rule at the step.
        passes: whether the row passes at the step.
        steps: steps at which the row passes; None for conditions that depend on other rows.
    """

    name: str
    value: float | str | None
    rule: str
    passes: bool
    steps: list[Interval] | None


@dataclass(frozen=True)
class Explanation:
    """Explanation of the selection of one row.

    Attributes:
        conditions: result of each condition.
        kept: whether the row is kept at the step.
        steps: steps at which the row passes all bounds.
    """

    conditions: list[Condition]
    kept: bool
    steps: list[Interval]


def explain(selector: Selector, row: int, step: int = 0) -> Explanation:
    """Explain the selection of a row at a step."""
    rows, conditions = selector.rows, []
    steps: list[Interval] = [(0, None)]
    passing = np.ones(rows.num_rows, dtype=bool)
    for bound in selector.policy.conditions:
        mask = bound.mask(rows, step)
        passing &= mask
        intervals = passing_steps(bound, rows, row)
        steps = intersect(steps, intervals)
        conditions.append(
            Condition(bound.column, _value(bound, rows, row), _rule(bound, step), bool(mask[row]), intervals)
        )
    if selector.groups is not None:
        distinct = selector.groups.drop(passing)
        dropped = bool(passing[row] and not distinct[row])
        rule = f"{_kept_duplicate(selector, distinct, row)} is kept" if dropped else "no other clip is kept"
        value = str(rows.strings(DUPLICATE_OF)[row]) or None
        conditions.append(Condition("near-duplicate", value, rule, not dropped, None))
        passing = distinct
    if selector.clusters is not None:
        limited, cap = selector.clusters.limit(passing), selector.clusters.cap(passing)
        name = selector.clusters.balance.column
        dropped = bool(passing[row] and not limited[row])
        conditions.append(
            Condition(f"balance over {name}", str(rows.strings(name)[row]), f"{cap} per {name}", not dropped, None)
        )
    return Explanation(conditions, bool(selector.mask(step)[row]), steps)


def passing_steps(bound: Bound, rows: Rows, row: int) -> list[Interval]:
    """Return the steps at which a row passes a resolved bound."""
    knots = {0, *bound.knots}
    applies = _intervals(bound.applies_at, knots)
    is_image = bool(rows.is_image[row])
    if bound.media != "all" and is_image != (bound.media == "images"):
        return [(0, None)]
    if bound.among:
        value = str(rows.strings(bound.column)[row])
        passes = (is_image or bound.keep_missing) if value == "" else value in bound.among
    else:
        number = float(rows.numbers(bound.column)[row])
        passes = (is_image or bound.keep_missing) and math.isnan(number)
        if not math.isnan(number):
            low = _intervals(lambda step: number >= bound.limits_at(step)[0], knots)
            high = _intervals(lambda step: number <= bound.limits_at(step)[1], knots)
            return _union([*_complement(applies), *intersect(applies, intersect(low, high))])
    return [(0, None)] if passes else _complement(applies)


def intersect(first: list[Interval], second: list[Interval]) -> list[Interval]:
    """Return the intersection of two lists of intervals."""
    common = []
    for start, end in first:
        for other_start, other_end in second:
            low, ends = max(start, other_start), [last for last in (end, other_end) if last is not None]
            high = min(ends, default=None)
            if high is None or low <= high:
                common.append((low, high))
    return _union(common)


def format_steps(steps: list[Interval]) -> str:
    """Format intervals of steps, such as "always", "never", "from 2,000", "0 to 1,999 and from 5,000"."""
    if steps == [(0, None)]:
        return "always"
    parts = [f"from {start:,}" if end is None else f"{start:,} to {end:,}" for start, end in steps]
    return " and ".join(parts) or "never"


def _intervals(predicate: Callable[[int], bool], knots: Iterable[int]) -> list[Interval]:
    """Return the steps at which a predicate holds. The predicate must change at most once between two knots."""
    intervals: list[Interval] = []
    starts = sorted(knots)
    for start, end in pairwise(starts):
        at_start, at_end = predicate(start), predicate(end - 1)
        if at_start == at_end:
            intervals += [(start, end - 1)] if at_start else []
            continue
        low, high = start, end - 1  # the predicate changes between these
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if predicate(middle) == at_start else (low, middle)
        intervals.append((start, low) if at_start else (high, end - 1))
    if predicate(starts[-1]):
        intervals.append((starts[-1], None))
    return _union(intervals)


def _union(intervals: list[Interval]) -> list[Interval]:
    """Sort intervals and merge adjacent or overlapping intervals."""
    merged: list[Interval] = []
    for start, end in sorted(intervals, key=lambda interval: interval[0]):
        if merged and (merged[-1][1] is None or start <= merged[-1][1] + 1):
            last = merged[-1][1]
            merged[-1] = merged[-1][0], None if last is None or end is None else max(last, end)
        else:
            merged.append((start, end))
    return merged


def _complement(intervals: list[Interval]) -> list[Interval]:
    gaps, start = [], 0
    for first, last in intervals:
        if first > start:
            gaps.append((start, first - 1))
        if last is None:
            return gaps
        start = last + 1
    return [*gaps, (start, None)]


def _value(bound: Bound, rows: Rows, row: int) -> float | str | None:
    if bound.among:
        return str(rows.strings(bound.column)[row]) or None
    number = float(rows.numbers(bound.column)[row])
    return None if math.isnan(number) else number


def _rule(bound: Bound, step: int) -> str:
    if not bound.applies_at(step):
        return "does not apply"
    if bound.among:
        return f"one of {', '.join(bound.among)}"
    low, high = bound.limits_at(step)
    limits = [f"at least {low:.6g}"] if low > -math.inf else []
    return " and ".join(limits + ([f"at most {high:.6g}"] if high < math.inf else []))


def _kept_duplicate(selector: Selector, kept: np.ndarray, row: int) -> str:
    """Return the id of the kept clip of a row's group of near-duplicates."""
    groups, ids = selector.groups, selector.rows.ids
    assert groups is not None
    positions = np.flatnonzero(groups.members == row)
    if not len(positions):
        return ""
    members = groups.members[groups.group == groups.group[positions[0]]]
    others = members[kept[members]]
    return "" if not len(others) else str(others[0] if ids is None else ids[others[0]])
