"""Agreement between raters: Krippendorff's alpha with a bootstrap interval, and the model of Dawid and Skene (1979).

Axes: `u` units (clips or videos), `r` raters, `b` resamples, `v` distinct values.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from cogvideox.evaluation.intervals import LEVEL

Answers = Mapping[str, Mapping[str, float]]
"""Answers by unit and rater."""

NUM_RESAMPLES = 1000
_SEED = 0
_MAX_STEPS, _TOLERANCE = 200, 1e-7


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha: 1 perfect agreement, 0 chance; NaN without units of two answers, or if all are equal.

    Attributes:
        interval: percentiles of a bootstrap over units; None if there are fewer than two units.
        num_units: number of units with two or more answers.
    """

    value: float
    interval: tuple[float, float] | None
    num_units: int


def krippendorff_alpha(answers: Answers, level: Literal["nominal", "interval"] = "nominal") -> Alpha:
    """Return Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability") of answers.

    Args:
        level: "nominal" counts different answers; "interval" weights them by the squared difference.
    """
    units = [list(row.values()) for row in answers.values() if len(row) >= 2]
    if not units:
        return Alpha(math.nan, None, 0)
    values = sorted({value for unit in units for value in unit})
    position = {value: index for index, value in enumerate(values)}
    coincidences = np.zeros((len(units), len(values), len(values)))
    for index, unit in enumerate(units):
        counts = np.bincount([position[value] for value in unit], minlength=len(values)).astype(np.float64)
        coincidences[index] = (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    grid = np.array(values, dtype=np.float64)
    distance = (grid[:, None] - grid[None]) ** 2 if level == "interval" else 1.0 - np.eye(len(values))
    value = float(_alpha(coincidences.sum(0)[None], distance)[0])
    if len(units) < 2 or math.isnan(value):
        return Alpha(value, None, len(units))
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), NUM_RESAMPLES).astype(np.float64)
    resampled = _alpha(np.einsum("bu,uvw->bvw", weights, coincidences), distance)
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Alpha(value, (float(low), float(high)), len(units))


def _alpha(coincidences: Float64[np.ndarray, "b v v"], distance: Float64[np.ndarray, "v v"]) -> np.ndarray:
    marginal = coincidences.sum(-1)
    number = marginal.sum(-1)
    observed = np.einsum("bvw,vw->b", coincidences, distance) / number
    expected = np.einsum("bv,bw,vw->b", marginal, marginal, distance) / (number * (number - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """A fitted model of binary answers.

    Attributes:
        probability: probability that the true answer is 1, by unit.
        sensitivity, specificity: fraction of true ones and of true zeros that each rater answers correctly.
        prevalence: fraction of units whose true answer is 1.
    """

    probability: dict[str, float]
    sensitivity: dict[str, float]
    specificity: dict[str, float]
    prevalence: float


def dawid_skene(answers: Mapping[str, Mapping[str, bool]], smoothing: float = 1.0) -> DawidSkene:
    """Fit the model of Dawid and Skene (1979) by expectation maximization, starting from the majority.

    Args:
        answers: answers by unit and rater.
        smoothing: pseudocount of correct answers of each rater, and half of it of wrong ones, so that raters with few
            answers are neither perfect nor useless.
    """
    units, raters = list(answers), sorted({rater for row in answers.values() for rater in row})
    is_answered, is_positive = _matrices(answers, units, raters)
    votes = np.where(is_answered, is_positive, 0).sum(1) / np.maximum(is_answered.sum(1), 1)
    probability = votes
    sensitivity = specificity = np.ones(len(raters))
    prevalence = 0.5
    for _ in range(_MAX_STEPS):
        ones, zeros = probability[:, None] * is_answered, (1 - probability[:, None]) * is_answered
        sensitivity = ((ones * is_positive).sum(0) + smoothing) / (ones.sum(0) + 1.5 * smoothing)
        specificity = ((zeros * ~is_positive).sum(0) + smoothing) / (zeros.sum(0) + 1.5 * smoothing)
        prevalence = float((probability.sum() + 0.5 * smoothing) / (len(units) + smoothing))
        log_one = np.where(is_positive, np.log(sensitivity), np.log1p(-sensitivity))
        log_zero = np.where(is_positive, np.log1p(-specificity), np.log(specificity))
        logit = math.log(prevalence / (1 - prevalence)) + ((log_one - log_zero) * is_answered).sum(1)
        updated = 0.5 * (1 + np.tanh(0.5 * logit))
        converged = np.abs(updated - probability).max(initial=0) < _TOLERANCE
        probability = updated
        if converged:
            break
    return DawidSkene(
        dict(zip(units, probability.tolist())),
        dict(zip(raters, sensitivity.tolist())),
        dict(zip(raters, specificity.tolist())),
        prevalence,
    )


def _matrices(
    answers: Mapping[str, Mapping[str, bool]], units: list[str], raters: list[str]
) -> tuple[Bool[np.ndarray, "u r"], Bool[np.ndarray, "u r"]]:
    is_answered, is_positive = np.zeros((2, len(units), len(raters)), dtype=bool)
    column = {rater: index for index, rater in enumerate(raters)}
    for row, unit in enumerate(units):
        for rater, answer in answers[unit].items():
            is_answered[row, column[rater]] = True
            is_positive[row, column[rater]] = answer
    return is_answered, is_positive
