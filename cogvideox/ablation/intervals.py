"""Paired differences of two arms, with 95 % intervals over seeds and items (prompts or clips). Imports no torch.

Both arms are measured with the same seeds on the same items, so each pair of seed and item has a difference. Seeds and
items are crossed random effects: d[i, j] = mean + seed[i] + item[j] + rest[i, j]. The variance of the mean is estimated
from the mean squares of the two-way layout, with the degrees of freedom of Satterthwaite (1946). With three seeds, a
bootstrap over seeds would be far too narrow. With one seed there is no interval, because the variance between seeds is
unknown: an interval over items alone would exclude 0 for most pairs of arms that do not differ.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cogvideox.evaluation.intervals import LEVEL, t_quantile


@dataclass(frozen=True)
class PairedDifference:
    """The mean of an arm minus that of another, over the same seeds and items.

    Attributes:
        interval: 95 % interval; None with only one seed, or without values.
        num_seeds, num_items: numbers of seeds and of items; one item is a value of the whole run.
    """

    value: float
    interval: tuple[float, float] | None
    num_seeds: int
    num_items: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0, otherwise 0."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0


def paired_difference(
    first: Float64[np.ndarray, "_seeds _items"], second: Float64[np.ndarray, "_seeds _items"]
) -> PairedDifference:
    """Compare two arms.

    Args:
        first, second: the values of each arm, a row per seed and a column per item; items that are NaN in any row of an
            arm are left out.

    Raises:
        ValueError: the arms have different seeds or items.
    """
    if first.shape != second.shape:
        raise ValueError(f"the arms have {first.shape} and {second.shape} values: seeds and items must be the same")
    pairs = first - second
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    num_seeds, num_items = pairs.shape
    if pairs.size == 0:
        return PairedDifference(math.nan, None, num_seeds, num_items)
    mean = float(pairs.mean())
    if num_seeds == 1:
        return PairedDifference(mean, None, num_seeds, num_items)
    variance, freedom = _variance_of_mean(pairs)
    half = t_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(variance)
    return PairedDifference(mean, (mean - half, mean + half), num_seeds, num_items)


def _variance_of_mean(pairs: Float64[np.ndarray, "seeds items"]) -> tuple[float, float]:
    """Return the variance of the mean and its degrees of freedom."""
    seeds, items = pairs.shape
    if items == 1:
        return float(pairs.var(ddof=1)) / pairs.size, float(pairs.size - 1)
    mean, by_seed, by_item = pairs.mean(), pairs.mean(axis=1), pairs.mean(axis=0)
    of_seeds = items * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    of_items = seeds * float(((by_item - mean) ** 2).sum()) / (items - 1)
    rest = pairs - by_seed[:, None] - by_item[None] + mean
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (items - 1))
    total = of_seeds + of_items - of_rest
    # The estimate may be too small by chance: it is at least that of either factor alone.
    largest, freedom = max((of_seeds, seeds - 1.0), (of_items, items - 1.0))
    if total <= largest:
        return largest / pairs.size, freedom
    squares = of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1) + of_rest**2 / ((seeds - 1) * (items - 1))
    freedom = max(total**2 / squares, 1.0)
    return total / pairs.size, float(
        math.floor(freedom)
    ) if freedom < 3 else freedom  # the quantile is exact for 1 and 2
