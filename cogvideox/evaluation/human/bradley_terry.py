"""Bradley-Terry strengths with ties (Davidson 1970), fitted by maximum likelihood.

    P(i beats j) = p_i / s,   P(tie) = nu * sqrt(p_i p_j) / s,   s = p_i + p_j + nu * sqrt(p_i p_j)

Strengths are log p, with mean 0. A normal prior with standard deviation `PRIOR_SD` keeps them finite if a model wins
or loses all of its comparisons. Unlike Elo ratings, the result does not depend on the order of the comparisons.

Axes: `n` comparisons, `b` resamples, `m` models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cogvideox.evaluation.human.intervals import RatingEstimate, crossed_estimates

PRIOR_SD = 3.0
_STEPS = 30
_MAX_STEP = 2.0


@dataclass(frozen=True)
class PairwiseAnswer:
    """An answer to one question about a pair of videos of the same prompt.

    Attributes:
        first, second: models.
        winner: name of a model; None for a tie ("same" or "both bad").
    """

    prompt: str
    rater: str
    first: str
    second: str
    winner: str | None


def fit(
    comparisons: Sequence[PairwiseAnswer], models: Sequence[str], weights: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, "b m_plus_1"]:
    """Return the strength of each model, and the logarithm of the tie parameter nu, for each row of weights."""
    pairs = sorted({(min(c.first, c.second), max(c.first, c.second)) for c in comparisons})
    outcomes = np.zeros((len(comparisons), 3 * len(pairs)))
    for row, comparison in enumerate(comparisons):
        pair = (min(comparison.first, comparison.second), max(comparison.first, comparison.second))
        outcome = 2 if comparison.winner is None else pair.index(comparison.winner)
        outcomes[row, 3 * pairs.index(pair) + outcome] = 1
    counts = weights @ outcomes  # [b, 3 * pairs]
    position = {model: index for index, model in enumerate(models)}
    features = np.zeros((3 * len(pairs), len(models) + 1))
    for index, (a, b) in enumerate(pairs):
        features[3 * index, position[a]] = features[3 * index + 1, position[b]] = 1
        features[3 * index + 2, [position[a], position[b]]] = 0.5
        features[3 * index + 2, -1] = 1
    parameters = np.zeros((len(weights), len(models) + 1))
    precision = np.full(len(models) + 1, PRIOR_SD**-2)
    for _ in range(_STEPS):
        utilities = (parameters @ features.T).reshape(len(weights), -1, 3)
        exponentials = np.exp(utilities - utilities.max(-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(-1, keepdims=True)
        totals = counts.reshape(len(weights), -1, 3).sum(-1, keepdims=True)
        expected = (totals * probabilities).reshape(len(weights), -1)
        gradient = (counts - expected) @ features - precision * parameters
        # The negative Hessian: covariance of the features under the model, summed over pairs, plus the prior.
        means = np.einsum("bpo,pof->bpf", probabilities, features.reshape(len(pairs), 3, -1))
        second = np.einsum("bc,cf,cg->bfg", expected, features, features)
        information = second - np.einsum("bp,bpf,bpg->bfg", totals[..., 0], means, means) + np.diag(precision)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        parameters = parameters + step.clip(-_MAX_STEP, _MAX_STEP)
        if np.abs(step).max() < 1e-8:
            break
    parameters[:, :-1] -= parameters[:, :-1].mean(1, keepdims=True)
    return parameters


def log_likelihood(
    comparisons: Sequence[PairwiseAnswer], models: Sequence[str], parameters: Float64[np.ndarray, " m_plus_1"]
) -> float:
    """Return the log-likelihood of comparisons, without the prior."""
    strength, log_nu = dict(zip(models, parameters)), parameters[-1]
    total = 0.0
    for comparison in comparisons:
        a, b = strength[comparison.first], strength[comparison.second]
        tie = log_nu + (a + b) / 2
        chosen = tie if comparison.winner is None else strength[comparison.winner]
        total += chosen - math.log(math.exp(a) + math.exp(b) + math.exp(tie))
    return total


def strengths(comparisons: Sequence[PairwiseAnswer], models: Sequence[str]) -> dict[str, RatingEstimate]:
    """Return the strength of each model with its interval over prompts and raters, strongest lower end first."""
    prompts, raters = [c.prompt for c in comparisons], [c.rater for c in comparisons]
    estimates = crossed_estimates(lambda weights: fit(comparisons, models, weights)[:, :-1], prompts, raters)
    named = dict(zip(models, estimates))
    return dict(sorted(named.items(), key=lambda item: -(item[1].interval or (item[1].value,))[0]))


def win_fraction(difference: float) -> float:
    """Return the expected fraction of decided comparisons that a model with this advantage in strength wins."""
    return 1 / (1 + math.exp(-difference))
