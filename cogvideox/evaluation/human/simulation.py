"""Simulated raters with known bias and noise, to test intervals: do 95 % of them contain the true value?

A rater scores the level nearest to quality + bias + noise. The true mean is that of all raters and prompts of the
population, so an interval has to cover the choice of prompts and of raters.

Axes: `p` prompts, `m` models, `r` raters.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64

from cogvideox.evaluation.human.bradley_terry import PairwiseAnswer


@dataclass(frozen=True)
class RaterPopulation:
    """Distribution of raters.

    Attributes:
        bias_sd: standard deviation of the raters' biases, on the scale of the criteria (0 to 1).
        noise_sd: standard deviation of the noise of one answer.
        tie_width: difference between two videos below which a rater answers "same".
    """

    bias_sd: float = 0.1
    noise_sd: float = 0.25
    tie_width: float = 0.1


def simulate_scores(
    quality: Float64[np.ndarray, "p m"], num_raters: int, population: RaterPopulation, rng: np.random.Generator
) -> Float64[np.ndarray, "r p m"]:
    """Return the scores (0, 0.5 or 1) that new raters of a population give to videos of known quality."""
    bias = rng.normal(0, population.bias_sd, (num_raters, 1, 1))
    noise = rng.normal(0, population.noise_sd, (num_raters, *quality.shape))
    return np.round(2 * np.clip(quality + bias + noise, 0, 1)) / 2


def expected_score(quality: Float64[np.ndarray, "..."], population: RaterPopulation) -> Float64[np.ndarray, "..."]:
    """Return the mean score of videos over all raters of a population, exactly."""
    distribution = NormalDist(0, float(np.hypot(population.bias_sd, population.noise_sd)))
    above = np.vectorize(lambda threshold, q: 1 - distribution.cdf(threshold - q))
    return 0.5 * above(0.25, quality) + 0.5 * above(0.75, quality)


def simulate_comparisons(
    quality: Float64[np.ndarray, "p m"],
    models: list[str],
    num_raters: int,
    population: RaterPopulation,
    rng: np.random.Generator,
) -> list[PairwiseAnswer]:
    """Return answers to all pairs of videos of each prompt. A rater's bias favors a model, not a side."""
    favor = rng.normal(0, population.bias_sd, (num_raters, len(models)))
    comparisons = []
    for rater in range(num_raters):
        for prompt in range(len(quality)):
            seen = quality[prompt] + favor[rater] + rng.normal(0, population.noise_sd, len(models))
            for i in range(len(models)):
                for j in range(i + 1, len(models)):
                    difference = seen[i] - seen[j]
                    winner = None if abs(difference) < population.tie_width else models[i if difference > 0 else j]
                    comparisons.append(PairwiseAnswer(f"p{prompt}", f"r{rater}", models[i], models[j], winner))
    return comparisons
