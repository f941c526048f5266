"""Conversion of quantiles to values, so that the resolved policy has absolute thresholds that apply to any rows."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cogvideox.config import to_dict
from cogvideox.filter_policy.duplicates import DuplicateGroups
from cogvideox.filter_policy.policy import Bound, Policy, Resolution, Target
from cogvideox.filter_policy.rows import Rows
from cogvideox.filter_policy.schedule import Schedule, Threshold, grid, knots_of, value_at

_ROUNDING = 1e-9  # tolerance of products such as 0.7 * 10


def resolve(policy: Policy, rows: Rows) -> Policy:
    """Return the policy with all quantiles and adaptive bounds converted to values computed on these rows.

    A constant quantile becomes the value of a row, so the selection is exact. A scheduled quantile becomes a
    schedule with exact values at its knots and at up to 32 steps between two knots.

    Raises:
        UserError: a column contains strings instead of numbers.
    """
    if policy.is_resolved:
        return policy
    bounds = tuple(_resolve_bound(bound, rows) for bound in policy.bounds)
    columns = [bound.column for bound in policy.bounds if not bound.is_resolved]
    resolved = replace(policy, bounds=bounds, target=None)
    if policy.target is not None:
        knots = (*resolved.knots, *knots_of(policy.target.fraction))
        resolved = replace(resolved, bounds=(*bounds, *_adaptive_bounds(policy.target, resolved, rows, knots)))
        columns += [*policy.target.high, *policy.target.low]
    hashes = {name: column_hash(rows, name) for name in dict.fromkeys(columns)}
    return replace(resolved, resolved=Resolution(rows.num_rows, hashes, to_dict(policy)))


def column_hash(rows: Rows, name: str) -> str:
    """Return a hash of the values of a numeric column, independent of the row order."""
    values = np.sort(rows.numbers(name))
    return hashlib.sha256(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes()).hexdigest()[:16]


def _resolve_bound(bound: Bound, rows: Rows) -> Bound:
    if bound.is_resolved:
        return bound
    values = rows.numbers(bound.column)
    if bound.media != "all":
        values = values[rows.is_image == (bound.media == "images")]
    known = np.sort(values[~np.isnan(values)])

    def lower(level: float) -> float:
        return float(known[min(math.floor(level * len(known) + _ROUNDING), len(known) - 1)])

    def upper(level: float) -> float:
        return float(known[max(math.ceil(level * len(known) - _ROUNDING) - 1, 0)])

    if not len(known):  # no row has a value that the thresholds could apply to
        return replace(bound, at_least=0.0, at_most=None, best=None, scale="value")
    at_least, at_most = bound.at_least, bound.at_most
    if bound.scale == "quantile":
        at_least = None if at_least is None else _map(at_least, lower)
        at_most = None if at_most is None else _map(at_most, upper)
    if bound.best is not None:
        at_least = _map(bound.best, lambda fraction: lower(1 - fraction))
    return replace(bound, at_least=at_least, at_most=at_most, best=None, scale="value")


def _map(threshold: Threshold, function: Callable[[float], float]) -> Threshold:
    if not isinstance(threshold, Schedule):
        return function(threshold)
    steps = threshold.steps if threshold.interpolation == "constant" else tuple(grid(threshold.steps))
    return Schedule(steps, tuple(function(threshold(step)) for step in steps), threshold.interpolation)


def _adaptive_bounds(target: Target, fixed: Policy, rows: Rows, knots: tuple[int, ...]) -> list[Bound]:
    """Return bounds that, combined with the fixed bounds, keep the target fraction of rows."""
    # A threshold at the quantile q of a column is the value of rank floor(q n). The strictness of a row is the largest
    # q at which all thresholds keep it.
    strictness = np.full(rows.num_rows, np.inf)
    values = {name: rows.numbers(name) for name in target.high} | {name: -rows.numbers(name) for name in target.low}
    known = {name: np.sort(column[~np.isnan(column)]) for name, column in values.items()}
    for name, column in values.items():
        rank = np.searchsorted(known[name], column, side="right") - 1
        allowed = rank / max(len(known[name]), 1)
        strictness = np.minimum(
            strictness, np.where(np.isnan(column), np.where(rows.is_image, np.inf, -np.inf), allowed)
        )
    groups = DuplicateGroups(rows) if fixed.drop_duplicates else None
    steps = grid(knots) if len(set(knots) | {0}) > 1 else [0]
    levels = []
    for step in steps:
        eligible = np.logical_and.reduce([bound.mask(rows, step) for bound in fixed.conditions], initial=True)
        passing = np.where(eligible, strictness, -np.inf)
        if groups is not None:
            passing = groups.best(passing)
        num_target = math.ceil(value_at(target.fraction, step) * rows.num_rows - _ROUNDING)
        candidates = np.sort(passing[passing > -np.inf])
        level = candidates[-min(num_target, len(candidates))] if len(candidates) else 0.0
        levels.append(min(float(level), 1.0))
    bounds = []
    for name, ordered in known.items():
        if not len(ordered):
            continue
        ranks = [min(math.floor(level * len(ordered) + _ROUNDING), len(ordered) - 1) for level in levels]
        thresholds = tuple(float(ordered[rank]) for rank in ranks)
        if name in target.low:
            bounds.append(Bound(name, at_most=_constant_or_schedule(steps, tuple(-value for value in thresholds))))
        else:
            bounds.append(Bound(name, at_least=_constant_or_schedule(steps, thresholds)))
    return bounds


def _constant_or_schedule(steps: list[int], values: tuple[float, ...]) -> Threshold:
    return values[0] if len(set(values)) == 1 else Schedule(tuple(steps), values)
