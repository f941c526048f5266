"""Intervals of statistics over prompts and raters, which are both samples of a population.

The design is crossed: raters judge the same prompts. Three bootstraps estimate the variance of a statistic: over
prompts, over raters, and over both (Owen 2007, "The pigeonhole bootstrap"). With P prompts and R raters, the first two
are too small by (P - 1) / P and (R - 1) / R, and both include the noise of single answers, which is estimated from the
third and subtracted once. The half-width of the interval is the root of the sum of the squares of t * standard error
over prompts (P - 1 degrees of freedom) and over raters (R - 1): in simulations, one t with the degrees of freedom of
Satterthwaite covers too rarely if there are three raters.

Axes: `n` answers, `b` resamples, `k` statistics.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cogvideox.evaluation.intervals import LEVEL, t_quantile

Statistics = Callable[[Float64[np.ndarray, "b n"]], Float64[np.ndarray, "b k"]]
"""Function that computes statistics from the weights of the answers: how often each is in each resample."""

NUM_RESAMPLES = 400
MIN_RATERS = 3
"""Minimum number of raters for an interval over raters; with fewer it would be too wide to be useful."""
FEW_RATERS = 6
_SEED = 0


@dataclass(frozen=True)
class RatingEstimate:
    """A statistic and its interval; None if there are fewer than two prompts.

    Attributes:
        rater_fraction: fraction of the variance that comes from differences between raters.
        over_raters: whether the interval holds for other raters too, not only for these.
    """

    value: float
    interval: tuple[float, float] | None
    standard_error: float
    rater_fraction: float
    over_raters: bool


def crossed_estimates(
    statistics: Statistics,
    prompts: Sequence[str],
    raters: Sequence[str],
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    num_resamples: int = NUM_RESAMPLES,
) -> list[RatingEstimate]:
    """Return the statistics of all answers, with intervals over prompts and raters.

    Args:
        prompts, raters: prompt and rater of each answer.
        bounds: smallest and largest possible value, to which intervals are clipped.
    """
    prompt_index, num_prompts = _index(prompts)
    rater_index, num_raters = _index(raters)
    values = statistics(np.ones((1, len(prompts))))[0]
    if num_prompts < 2:
        return [RatingEstimate(float(value), None, math.nan, math.nan, False) for value in values]
    rng = np.random.default_rng(_SEED)
    by_prompt = _multiplicities(rng, num_resamples, num_prompts)[:, prompt_index]
    by_rater = _multiplicities(rng, num_resamples, num_raters)[:, rater_index]
    prompt_variance = _variance(statistics(by_prompt)) * num_prompts / (num_prompts - 1)
    over_raters = num_raters >= MIN_RATERS
    if over_raters:
        rater_variance = _variance(statistics(by_rater)) * num_raters / (num_raters - 1)
        both = _variance(statistics(by_prompt * by_rater))
        noise = np.maximum(both - _variance(statistics(by_prompt)) - _variance(statistics(by_rater)), 0.0)
        # The noise of single answers is in each of the three bootstraps, once in the first two.
        noise = np.minimum(noise, np.minimum(prompt_variance, rater_variance))
        rater_variance = rater_variance - noise
    else:
        rater_variance = np.zeros(len(values))
    prompt_t = t_quantile((1 + LEVEL) / 2, num_prompts - 1)
    rater_t = t_quantile((1 + LEVEL) / 2, max(num_raters - 1, 1))
    estimates = []
    for value, of_prompts, of_raters in zip(values, prompt_variance, rater_variance):
        half = math.hypot(prompt_t * math.sqrt(of_prompts), rater_t * math.sqrt(of_raters))
        low, high = max(bounds[0], float(value) - half), min(bounds[1], float(value) + half)
        interval = None if math.isnan(value) else (low, high)
        variance = float(of_prompts + of_raters)
        fraction = float(of_raters) / variance if variance else 0.0
        estimates.append(RatingEstimate(float(value), interval, math.sqrt(variance), fraction, over_raters))
    return estimates


def weighted_means(
    values: Float64[np.ndarray, " n"], groups: Sequence[str], names: Sequence[str], difference: bool = False
) -> Statistics:
    """Return the statistics "mean of each group", in the order of `names`.

    Args:
        groups: group of each answer, such as the model.
        difference: also return the difference of the first two groups.
    """
    members = np.array([[group == name for name in names] for group in groups], dtype=np.float64)
    weighted = members * values[:, None]

    def statistics(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b k"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights @ weighted) / (weights @ members)
        return np.concatenate([means, means[:, :1] - means[:, 1:2]], axis=1) if difference else means

    return statistics


def rater_warning(num_raters: int) -> str | None:
    """Return a warning about intervals from few raters; None if there are enough."""
    if num_raters < MIN_RATERS:
        return (
            f"{num_raters} rater{'s' if num_raters != 1 else ''}: the intervals cover other prompts, but not other "
            f"raters; {MIN_RATERS} raters are the minimum, {FEW_RATERS} or more are better"
        )
    if num_raters < FEW_RATERS:
        return (
            f"only {num_raters} raters: the intervals are wide, because the differences between raters are estimated "
            f"from {num_raters} people; with {FEW_RATERS} or more they are much narrower"
        )
    return None


def _index(names: Sequence[str]) -> tuple[np.ndarray, int]:
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names], dtype=np.int64), len(order)


def _multiplicities(rng: np.random.Generator, num_resamples: int, size: int) -> Float64[np.ndarray, "b size"]:
    return rng.multinomial(size, np.full(size, 1 / size), num_resamples).astype(np.float64)


def _variance(resampled: Float64[np.ndarray, "b k"]) -> Float64[np.ndarray, " k"]:
    return np.nanvar(resampled, axis=0, ddof=1)
