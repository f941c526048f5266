"""Bradley-Terry with ties: closed forms, order of the truth, independence of the order of votes."""

import math

import numpy as np
import pytest

from cogvideox.evaluation.human import bradley_terry
from cogvideox.evaluation.human.bradley_terry import PairwiseAnswer, fit, log_likelihood, strengths, win_fraction
from cogvideox.evaluation.human.simulation import RaterPopulation, simulate_comparisons


def repeated(wins_a: int, wins_b: int, ties: int) -> list[PairwiseAnswer]:
    winners = ["a"] * wins_a + ["b"] * wins_b + [None] * ties
    return [PairwiseAnswer(f"p{i % 7}", f"r{i % 5}", "a", "b", winner) for i, winner in enumerate(winners)]


def test_two_models_have_the_closed_form(monkeypatch):
    """With n_a, n_b wins and t ties: p_a / p_b = n_a / n_b and nu = t / sqrt(n_a n_b)."""
    monkeypatch.setattr(bradley_terry, "PRIOR_SD", 1e6)
    (a, b, log_nu) = fit(repeated(60, 20, 20), ["a", "b"], np.ones((1, 100)))[0]
    assert a - b == pytest.approx(math.log(3), abs=1e-6)
    assert math.exp(log_nu) == pytest.approx(20 / math.sqrt(60 * 20), abs=1e-6)
    assert win_fraction(a - b) == pytest.approx(0.75)


def test_the_fit_maximizes_the_likelihood(monkeypatch):
    monkeypatch.setattr(bradley_terry, "PRIOR_SD", 1e6)
    rng = np.random.default_rng(0)
    models, names = ["a", "b", "c", "d"], list(range(4))
    comparisons = []
    for index in range(200):
        i, j = rng.choice(names, 2, replace=False)
        winner = rng.choice([models[i], models[j], ""], p=[0.5, 0.3, 0.2]) or None
        comparisons.append(PairwiseAnswer(str(index), "r", models[i], models[j], winner))
    best = fit(comparisons, models, np.ones((1, 200)))[0]
    highest = log_likelihood(comparisons, models, best)
    for _ in range(20):
        assert log_likelihood(comparisons, models, best + rng.normal(0, 0.1, 5)) < highest


def test_the_order_of_the_true_qualities_is_recovered():
    models = ["worst", "low", "high", "best"]
    videos = np.array([0.3, 0.45, 0.55, 0.7]) + np.random.default_rng(0).normal(0, 0.1, (40, 4))
    comparisons = simulate_comparisons(videos, models, 8, RaterPopulation(), np.random.default_rng(1))
    ranked = strengths(comparisons, models)
    assert list(ranked) == models[::-1]
    shuffled = [comparisons[i] for i in np.random.default_rng(2).permutation(len(comparisons))]
    for model, estimate in strengths(shuffled, models).items():
        assert estimate.value == pytest.approx(ranked[model].value, abs=1e-6)


def test_a_model_that_always_wins_has_a_finite_strength():
    ranked = strengths(repeated(30, 0, 0), ["a", "b"])
    assert 1 < ranked["a"].value < 6
