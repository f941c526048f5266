"""Simulated studies with known truth: how often 95 % intervals contain the true value, and how wide they are.

    python benchmarks/human_study.py --repetitions 400

Two models of known quality make toybox videos: each video has the wrong color, coarse pixels or frozen frames with
known probabilities, which fix the quality of every criterion. Raters with known bias and noise rate them. The truth is
the expected score over all prompts and raters of the population.
"""

import argparse
import json

import numpy as np

from cogvideox.evaluation.human.bradley_terry import strengths
from cogvideox.evaluation.human.intervals import crossed_estimates, rater_warning, weighted_means
from cogvideox.evaluation.human.rubric import CRITERIA
from cogvideox.evaluation.human.simulation import (
    RaterPopulation,
    expected_score,
    simulate_comparisons,
    simulate_scores,
)

# Probability of each flaw per model, and the quality of each criterion that a flaw leaves.
FLAWS = {
    "color": {"instruction": 0.05},
    "coarse": {"sensory": 0.1, "cover": 0.05},
    "frozen": {"physics": 0.1, "instruction": 0.3},
}
PROBABILITIES = {
    "better": {"color": 0.2, "coarse": 0.15, "frozen": 0.1},
    "worse": {"color": 0.45, "coarse": 0.3, "frozen": 0.2},
}
BASE = {"sensory": 0.8, "instruction": 0.9, "physics": 0.75, "cover": 0.8}
DIFFICULTY_SD = 0.15
"""Standard deviation of the difficulty of a prompt, which both models share."""


def qualities(rng: np.random.Generator, num_prompts: int) -> dict[str, np.ndarray]:
    """Return the quality of new videos by criterion: [prompts, models]."""
    flaws = {
        name: np.stack([rng.random(num_prompts) < PROBABILITIES[model][name] for model in PROBABILITIES], axis=1)
        for name in FLAWS
    }
    difficulty = rng.normal(0, DIFFICULTY_SD, (num_prompts, 1))
    quality = {}
    for criterion in CRITERIA:
        values = np.clip(BASE[criterion] + difficulty + rng.normal(0, 0.05, (num_prompts, 2)), 0, 1)
        for name, effect in FLAWS.items():
            if criterion in effect:
                values = np.where(flaws[name], np.minimum(values, effect[criterion]), values)
        quality[criterion] = values
    return quality


def coverage(num_raters: int, num_prompts: int, repetitions: int, seed: int) -> dict[str, list[float]]:
    """Return coverage and mean width of the intervals of both means and their difference, over all criteria."""
    population, rng = RaterPopulation(), np.random.default_rng(seed)
    many = qualities(np.random.default_rng(12345), 20_000)
    covered, widths, fractions = (np.zeros((len(CRITERIA), 3)) for _ in range(3))
    for _ in range(repetitions):
        sample = qualities(rng, num_prompts)
        for row, criterion in enumerate(CRITERIA):
            means = _EXPECTED.setdefault(criterion, expected_score(many[criterion], population).mean(0))
            truth = np.array([*means, means[0] - means[1]])
            scores = simulate_scores(sample[criterion], num_raters, population, rng)
            rater, prompt, model = (index.ravel().astype(str).tolist() for index in np.indices(scores.shape))
            statistics = weighted_means(scores.ravel(), model, ["0", "1"], difference=True)
            for column, estimate in enumerate(crossed_estimates(statistics, prompt, rater)):
                low, high = estimate.interval or (np.nan, np.nan)
                covered[row, column] += low <= truth[column] <= high
                widths[row, column] += high - low
                fractions[row, column] += estimate.rater_fraction
    return {
        "coverage": (covered / repetitions).round(3).tolist(),
        "width": (widths / repetitions).round(3).tolist(),
        "rater_fraction": (fractions / repetitions).round(2).tolist(),
    }


_EXPECTED: dict[str, np.ndarray] = {}


def order_recovered(num_raters: int, num_prompts: int, repetitions: int, seed: int) -> float:
    """Return the fraction of studies in which Bradley-Terry ranks the better model first."""
    rng, models, right = np.random.default_rng(seed), list(PROBABILITIES), 0
    for _ in range(repetitions):
        quality = np.mean(list(qualities(rng, num_prompts).values()), axis=0)
        ranked = strengths(simulate_comparisons(quality, models, num_raters, RaterPopulation(), rng), models)
        right += next(iter(ranked)) == "better"
    return right / repetitions


def main() -> None:
    """Print the results as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for num_raters in (8, 3):
        result = coverage(num_raters, options.prompts, options.repetitions, options.seed)
        for row, criterion in enumerate(CRITERIA):
            line = {name: values[row] for name, values in result.items()}
            print(json.dumps({"raters": num_raters, "criterion": criterion, **line}), flush=True)
        print(json.dumps({"raters": num_raters, "note": rater_warning(num_raters)}))
    right = order_recovered(8, options.prompts, max(1, options.repetitions // 4), options.seed)
    print(json.dumps({"raters": 8, "order recovered": right}))


if __name__ == "__main__":
    main()
