"""Thresholds of a policy for the histograms of the page."""

import math
from dataclasses import dataclass

from cogvideox.filter_policy.policy import Bound, Policy


@dataclass(frozen=True)
class Limit:
    """A threshold at one step.

    Attributes:
        rule: for readers, such as "at least 0.02 at step 500".
        moves: whether it is another at other steps.
    """

    value: float
    rule: str
    moves: bool


def thresholds_of(policy: Policy | None, column: str) -> list[Limit]:
    """Return the thresholds of a resolved policy on a column, those that move at their first and last step."""
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
        moves = start != end
        steps = f" from step {first:,}" if first else ""
        steps += f" up to step {last:,}" if bound.to_step is not None else ""
        limits.append(Limit(start, f"{rule} {start:.4g}{f' at step {first:,}' if moves else steps}", moves))
        if moves:
            limits.append(Limit(end, f"{rule} {end:.4g} at step {last:,}", moves))
    return limits
