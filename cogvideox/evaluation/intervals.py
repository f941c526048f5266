"""Confidence intervals of metrics, and paired comparison of two models.

Videos of the same prompt are not independent, so prompts are resampled, with all of their videos.

- bootstrap: percentiles of the metric over resampled prompts, at expanded levels, because the percentile interval of a
  mean of k prompts is too narrow by sqrt((k - 1) / k) and by the ratio of the normal to the t quantile (Hesterberg
  2015, section 5.3);
- Wilson (1927): proportions, whose bootstrap interval is empty if all videos agree. The number of facts is divided by
  the design effect, the variance with clusters over that of independent videos;
- jackknife over ten blocks of prompts: statistics for which repeated videos are not new videos, such as Frechet
  distances.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64

from cogvideox.evaluation.scorer import Measurement, Metric, Ratio, Statistic

LEVEL = 0.95
NUM_RESAMPLES = 2000
NUM_SLOW_RESAMPLES = 200
"""Number of resamples of statistics that are not ratios, which are computed one at a time."""
NUM_BLOCKS = 10
SEED = 0


@dataclass(frozen=True)
class MetricEstimate:
    """A metric and its interval; None if there are fewer than two prompts.

    Attributes:
        method: method of the interval.
        num_videos, num_prompts: numbers of videos with a value, and of their prompts.
    """

    value: float
    interval: tuple[float, float] | None
    method: str
    num_videos: int
    num_prompts: int


@dataclass(frozen=True)
class Difference:
    """Metric of model A minus that of model B over the same prompts.

    Attributes:
        p_value: two-sided p value of the null hypothesis that A and B are exchangeable in every prompt.
    """

    value: float
    interval: tuple[float, float] | None
    p_value: float
    num_prompts: int


def estimate(metric: Metric, measurements: Sequence[Measurement], clusters: Sequence[str]) -> MetricEstimate:
    """Compute a metric and its interval.

    Args:
        clusters: prompt of each measurement.
    """
    groups = _groups(metric.statistic, measurements, clusters)
    used = [measurement for group in groups for measurement in group]
    value, (n, k) = metric.statistic(used), (len(used), len(groups))
    if k < 2 or math.isnan(value):
        return MetricEstimate(value, None, "none: fewer than two prompts", n, k)
    if metric.resampling == "jackknife":
        interval = _jackknife(metric.statistic, groups, value)
        method = "none: too few videos" if interval is None else f"jackknife over prompts, {LEVEL:.0%}"
        return MetricEstimate(value, interval, method, n, k)
    statistic = metric.statistic if metric.unit not in ("dB", "levels") else None
    if isinstance(statistic, Ratio) and (size := _effective_size(statistic, groups)) is not None:
        return MetricEstimate(value, wilson(value, size), f"Wilson over prompts, {LEVEL:.0%}", n, k)
    interval = _percentiles(_resampled(metric.statistic, groups), k)
    return MetricEstimate(value, interval, f"bootstrap over prompts, {LEVEL:.0%}", n, k)


def difference(
    metric: Metric, a: Sequence[Measurement], b: Sequence[Measurement], clusters: Sequence[str]
) -> Difference:
    """Compare two models on the same videos of the same prompts: measurement i of `a` and of `b` belong together."""
    pairs = [{"a": first, "b": second} for first, second in zip(a, b, strict=True)]
    statistic = metric.statistic

    def complete(pair: Measurement) -> bool:
        return not isinstance(statistic, Ratio) or None not in (statistic.terms(pair["a"]), statistic.terms(pair["b"]))

    chosen = [i for i, pair in enumerate(pairs) if complete(pair)]
    names = list(dict.fromkeys(clusters[i] for i in chosen))
    groups = {side: [[pairs[i][side] for i in chosen if clusters[i] == name] for name in names] for side in "ab"}
    value = statistic(list(chain(*groups["a"]))) - statistic(list(chain(*groups["b"])))
    k = len(names)
    if k < 2 or math.isnan(value):
        return Difference(value, None, math.nan, k)
    rng = np.random.default_rng(SEED)
    if metric.resampling == "jackknife":
        joined = [list(zip(*sides)) for sides in zip(groups["a"], groups["b"])]

        def subtract(rows: Sequence[tuple[Measurement, Measurement]]) -> float:
            return statistic([first for first, _ in rows]) - statistic([second for _, second in rows])

        interval = _jackknife(subtract, joined, value)
    else:
        resampled = [_resampled(statistic, groups[side]) for side in "ab"]  # the same prompts for both
        interval = _percentiles(resampled[0] - resampled[1], k)
    swapped = _swapped(statistic, groups["a"], groups["b"], rng)
    extreme = np.sum(np.abs(swapped) >= abs(value) - 1e-12)
    return Difference(value, interval, float(extreme + 1) / (len(swapped) + 1), k)


def wilson(proportion: float, size: float | int) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion of `size` independent observations."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    center = (proportion + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(proportion * (1 - proportion) / size + z * z / (4 * size * size))
    return max(0.0, center - half), min(1.0, center + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for the number of comparisons (Holm 1979). NaN stays NaN and is not counted."""
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = list(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[i] = highest
    return adjusted


def t_quantile(level: float, freedom: float | int) -> float:
    """Return a quantile of Student's t distribution.

    It is exact for 1 and 2 degrees of freedom, as with few raters or prompts. Otherwise it is computed from the normal
    quantile, with an error below 1 %.
    """
    if freedom == 1:
        return math.tan(math.pi * (level - 0.5))
    if freedom == 2:
        return (2 * level - 1) / math.sqrt(2 * level * (1 - level))
    z = NormalDist().inv_cdf(level)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2) + third


def _groups(
    statistic: Statistic, measurements: Sequence[Measurement], clusters: Sequence[str]
) -> list[list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for measurement, cluster in zip(measurements, clusters, strict=True):
        if not isinstance(statistic, Ratio) or statistic.terms(measurement) is not None:
            groups.setdefault(cluster, []).append(measurement)
    return list(groups.values())


def _cluster_sums(
    statistic: Ratio, groups: Sequence[Sequence[Measurement]]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    terms = [[pair for row in group if (pair := statistic.terms(row)) is not None] for group in groups]
    top, bottom = (np.array([sum(pair[side] for pair in group) for group in terms]) for side in (0, 1))
    return top, bottom


def _effective_size(statistic: Ratio, groups: Sequence[Sequence[Measurement]]) -> float | None:
    """Return the number of independent facts with the same variance; None unless the metric is a proportion."""
    terms = [pair for group in groups for row in group if (pair := statistic.terms(row)) is not None]
    if not all(top.is_integer() and bottom.is_integer() and 0 <= top <= bottom for top, bottom in terms):
        return None
    n, k = sum(bottom for _, bottom in terms), len(groups)
    if not n:
        return None
    p = sum(top for top, _ in terms) / n
    if p in (0.0, 1.0):
        return float(k)
    tops, sizes = _cluster_sums(statistic, groups)
    variance = k / (k - 1) * float(np.sum((tops - p * sizes) ** 2)) / n**2
    return min(float(n), max(float(k) / 2, p * (1 - p) / max(variance, 1e-12)))


def _resampled(statistic: Statistic, groups: Sequence[Sequence[Measurement]]) -> Float64[np.ndarray, " resamples"]:
    k = len(groups)
    if isinstance(statistic, Ratio):
        top, bottom = _cluster_sums(statistic, groups)
        weights = _weights(k)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ top) / (weights @ bottom)
    draws = np.random.default_rng(SEED).integers(0, k, (NUM_SLOW_RESAMPLES, k))
    return np.array([statistic([m for index in draw for m in groups[index]]) for draw in draws])


@functools.lru_cache(maxsize=8)
def _weights(k: int) -> Float64[np.ndarray, "resamples k"]:
    """Return how often each of `k` prompts is in each resample."""
    draws = np.random.default_rng(SEED).multinomial(k, np.full(k, 1 / k), NUM_RESAMPLES)
    return draws.astype(np.float64)


def _swapped(
    statistic: Statistic,
    a: Sequence[Sequence[Measurement]],
    b: Sequence[Sequence[Measurement]],
    rng: np.random.Generator,
) -> Float64[np.ndarray, " resamples"]:
    """Return the differences after exchanging A and B in random prompts."""
    k = len(a)
    if isinstance(statistic, Ratio):
        swap = rng.integers(0, 2, (NUM_RESAMPLES, k)).astype(np.float64)
        (top_a, bottom_a), (top_b, bottom_b) = _cluster_sums(statistic, a), _cluster_sums(statistic, b)
        keep = 1 - swap
        first = (keep @ top_a + swap @ top_b) / (keep @ bottom_a + swap @ bottom_b)
        return first - (swap @ top_a + keep @ top_b) / (swap @ bottom_a + keep @ bottom_b)
    differences = []
    for swap in rng.integers(0, 2, (NUM_SLOW_RESAMPLES, k)):
        first = [m for i in range(k) for m in (b if swap[i] else a)[i]]
        second = [m for i in range(k) for m in (a if swap[i] else b)[i]]
        differences.append(statistic(first) - statistic(second))
    return np.array(differences)


def _percentiles(resampled: Float64[np.ndarray, " resamples"], k: int) -> tuple[float, float]:
    level = NormalDist().cdf(t_quantile((1 - LEVEL) / 2, k - 1) * math.sqrt(k / (k - 1)))
    low, high = np.nanquantile(resampled, [level, 1 - level])
    return float(low), float(high)


def _jackknife(
    statistic: Callable[[Sequence], float], groups: Sequence[Sequence], value: float
) -> tuple[float, float] | None:
    """Return the interval; None if the statistic has no value without one of the blocks."""
    num_blocks = min(NUM_BLOCKS, len(groups))
    block = np.random.default_rng(SEED).permutation(len(groups)) % num_blocks
    left_out = np.array(
        [
            statistic([row for group, index in zip(groups, block) if index != left for row in group])
            for left in range(num_blocks)
        ]
    )
    if np.isnan(left_out).any():
        return None
    error = math.sqrt((num_blocks - 1) / num_blocks * float(np.sum((left_out - left_out.mean()) ** 2)))
    half = t_quantile((1 + LEVEL) / 2, num_blocks - 1) * error
    return value - half, value + half
