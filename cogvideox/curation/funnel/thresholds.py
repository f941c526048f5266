"""Thresholds of a policy, for drawing on the histograms of the funnel page."""

import math
from dataclasses import dataclass

from cogvideox.filter_policy.policy import Bound, Policy


@dataclass(frozen=True)
class Limit:
    """A threshold at one step.

    Attributes:
        value: value of the threshold.
        rule: human-readable rule, such as "at least 0.02 at step 500".
        is_scheduled: whether the threshold changes with the step.
    """

    value: float
    rule: str
    is_scheduled: bool


def thresholds_of(policy: Policy | None, column: str) -> list[Limit]:
    """Return the thresholds of a resolved policy on a column; scheduled thresholds at their first and last step."""
    bounds = [] if policy is None else [bound for bound in policy.conditions if bound.column == column]
    return [limit for bound in bounds if not bound.among for limit in _limits(bound)]


def _limits(bound: Bound) -> list[Limit]:
    first = bound.from_step
    last = bound.to_step - 1 if bound.to_step is not None else max((first, *bound.knots))
    limits = []
    for i, rule in enumerate(("at least", "at most")):
        start, end = bound.limits_at(first)[i], bound.limits_at(last)[i]
        if not math.isfinite(start):
            continue
        is_scheduled = start != end
        steps = f" from step {first:,}" if first else ""
        steps += f" up to step {last:,}" if bound.to_step is not None else ""
        suffix = f" at step {first:,}" if is_scheduled else steps
        limits.append(Limit(start, f"{rule} {start:.4g}{suffix}", is_scheduled))
        if is_scheduled:
            limits.append(Limit(end, f"{rule} {end:.4g} at step {last:,}", is_scheduled))
    return limits
