"""Aggregation of DEVIL: range and controllability of dynamics, and quality by bins of dynamics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_BINS = 12
GRADES = ("static", "low", "medium", "high", "very_high")
"""Grades of prompts, from the least to the most motion."""


@dataclass(frozen=True)
class BinnedQuality:
    """Mean quality over equal bins of the dynamics score; a bin without videos counts as 0.

    So a model whose videos all have the same dynamics reaches at most a twelfth of their quality.

    Attributes:
        overall: mean over all bins.
        low, mid, high: means over four bins each.
        num_filled: number of bins with videos.
    """

    overall: float
    low: float
    mid: float
    high: float
    num_filled: int


def binned_quality(
    dynamics: Sequence[float], quality: Sequence[float], *, official_bugs: bool = False
) -> BinnedQuality:
    """Average a quality over the bins of the dynamics score in [0, 1].

    Args:
        official_bugs: drop videos whose dynamics score is exactly 1, as the official script does.
    """
    x, y = np.asarray(dynamics, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    bins = np.digitize(x, np.linspace(0.0, 1.0, NUM_BINS + 1))
    if not official_bugs:
        bins = np.where(x == 1.0, NUM_BINS, bins)
    means = np.array([y[bins == index].mean() if (bins == index).any() else 0.0 for index in range(1, NUM_BINS + 1)])
    thirds = means.reshape(3, -1).mean(axis=1)
    filled = sum((bins == index).any() for index in range(1, NUM_BINS + 1))
    return BinnedQuality(float(means.mean()), *map(float, thirds), num_filled=int(filled))


def dynamics_range(dynamics: Sequence[float]) -> float:
    """Return the difference of the 99th and the first percentile."""
    low, high = np.percentile(np.asarray(dynamics, dtype=np.float64), [1, 99])
    return float(high - low)


def controllability(grades: Sequence[int], dynamics: Sequence[float]) -> float:
    """Return how often videos of prompts with a higher grade move more: mean over videos, against all other grades."""
    x, y = np.asarray(dynamics, dtype=np.float64), np.asarray(grades)
    rates = [((value - x[y != grade]) * (grade - y[y != grade]) > 0).mean() for value, grade in zip(x, y)]
    return float(np.mean(rates))


def grade_of_name(name: str, *, official_bugs: bool = False) -> int | None:
    """Return the grade in a file's name, "very_high_12", as an index of `GRADES`; None if there is none.

    Args:
        official_bugs: search for the grade anywhere in the name, as the official script does, so that "flower" reads as
            low; the order of the search is static, low, medium, very_high, high, and a name without a grade is static.
    """
    name = name.lower()
    if official_bugs:
        order = ("static", "low", "medium", "very_high", "high")
        return next((GRADES.index(grade) for grade in order if grade in name), 0)
    starts = [grade for grade in GRADES if name.startswith(f"{grade}_")]
    return GRADES.index(starts[0]) if starts else None


def mean_quality(binned: Mapping[str, BinnedQuality]) -> BinnedQuality:
    """Return the mean of several qualities over the same videos."""
    values = list(binned.values())
    means = {
        name: float(np.mean([getattr(value, name) for value in values])) for name in ("overall", "low", "mid", "high")
    }
    return BinnedQuality(**means, num_filled=values[0].num_filled)
