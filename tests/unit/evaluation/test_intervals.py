"""Intervals cover the truth, comparisons are paired, and proportions equal hand-computed values."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from cogvideox.evaluation.intervals import difference, estimate, holm, t_quantile, wilson
from cogvideox.evaluation.scorer import Metric, Ratio

NUM_MODELS = 500
Simulation = Callable[[np.random.Generator], tuple[list[dict[str, float]], list[str], float]]


def proportion(rng: np.random.Generator):
    """100 prompts of one video; the model's accuracy is between 0.3 and 0.97."""
    truth = rng.uniform(0.3, 0.97)
    return [{"x": int(x)} for x in rng.random(100) < truth], [str(i) for i in range(100)], truth


def proportion_in_clusters(rng: np.random.Generator):
    """60 prompts of five videos; prompts differ in difficulty."""
    a = rng.uniform(2, 8)
    difficulty = rng.beta(a, 2, 60)
    rows = [{"x": int(x)} for p in difficulty for x in rng.random(5) < p]
    return rows, [str(i // 5) for i in range(300)], a / (a + 2)


def ratio_of_frames(rng: np.random.Generator):
    """80 videos with 8 to 16 frames, each with its own rate of hits."""
    a = rng.uniform(1, 6)
    frames = rng.integers(8, 17, 80)
    hits = rng.binomial(frames, rng.beta(a, 3, 80))
    rows = [{"x": float(h), "n": float(f)} for h, f in zip(hits, frames)]
    return rows, [str(i) for i in range(80)], a / (a + 3)


def mean_of_measurements(rng: np.random.Generator):
    """50 videos with a measurement such as a PSNR."""
    truth = rng.uniform(20, 35)
    return [{"x": float(x)} for x in rng.normal(truth, 3, 50)], [str(i) for i in range(50)], truth


@pytest.mark.parametrize(
    "simulation",
    [
        proportion,
        pytest.param(proportion_in_clusters, marks=pytest.mark.slow),
        ratio_of_frames,
        pytest.param(mean_of_measurements, marks=pytest.mark.slow),
    ],
    ids=lambda simulation: simulation.__name__,
)
def test_intervals_of_simulated_models_cover_the_truth(simulation: Simulation):
    rng, covered = np.random.default_rng(1), 0
    metric = Metric("m", Ratio("x", "n" if simulation is ratio_of_frames else None))
    for _ in range(NUM_MODELS):
        rows, clusters, truth = simulation(rng)
        interval = estimate(metric, rows, clusters).interval
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    print(f"{simulation.__name__}: {covered / NUM_MODELS:.1%}")  # shown by pytest -s
    assert 0.93 <= covered / NUM_MODELS <= 0.97


def test_wilson_equals_the_worked_example():
    # Newcombe 1998, table I: 81 of 263, and 15 of 148
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_a_perfect_model_has_an_interval():
    result = estimate(Metric("m", Ratio("x")), [{"x": 1}] * 20, [str(i) for i in range(20)])
    assert result.value == 1.0
    assert result.interval is not None
    assert result.interval[0] == pytest.approx(1 / (1 + 1.96**2 / 20), abs=1e-3)


def test_clusters_widen_the_interval():
    rows = [{"x": float(i % 4 < 2)} for i in range(80)]
    alone = estimate(Metric("m", Ratio("x")), rows, [str(i) for i in range(80)])
    together = estimate(Metric("m", Ratio("x")), rows, [str(i % 4) + str(i // 20) for i in range(80)])
    assert alone.interval and together.interval
    assert together.interval[1] - together.interval[0] > alone.interval[1] - alone.interval[0]


def test_one_prompt_has_no_interval():
    assert estimate(Metric("m", Ratio("x")), [{"x": 1.0}, {"x": 0.0}], ["a", "a"]).interval is None


def test_missing_values_are_not_counted():
    result = estimate(Metric("m", Ratio("x")), [{"x": 1}, {}, {"x": 0}, {"x": None}], list("abcd"))
    assert (result.value, result.num_videos, result.num_prompts) == (0.5, 2, 2)


def test_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=10)
    metric = Metric("m", lambda rows: float(np.mean([row["x"] for row in rows])), resampling="jackknife")
    result = estimate(metric, [{"x": float(x)} for x in values], [str(i) for i in range(10)])
    assert result.interval is not None
    half = 2.262 * values.std(ddof=1) / math.sqrt(10)
    assert result.interval == pytest.approx((values.mean() - half, values.mean() + half), rel=2e-3)


def test_a_comparison_is_paired():
    """Prompts differ a lot, the two models by little: only the paired comparison sees it."""
    rng = np.random.default_rng(2)
    easy = rng.normal(0, 10, 40)
    a = [{"x": float(x)} for x in easy + 0.5 + rng.normal(0, 0.3, 40)]
    b = [{"x": float(x)} for x in easy + rng.normal(0, 0.3, 40)]
    prompts = [str(i) for i in range(40)]
    metric = Metric("m", Ratio("x"))
    result = difference(metric, a, b, prompts)
    assert result.interval is not None
    assert 0.2 < result.interval[0] < 0.5 < result.interval[1] < 0.8
    assert result.p_value < 0.001
    wide = estimate(metric, a, prompts).interval
    assert wide is not None
    assert wide[1] - wide[0] > 10 * (result.interval[1] - result.interval[0])
    assert difference(metric, a, a, prompts).p_value == 1.0


def test_p_values_are_uniform_without_a_difference():
    rng, p_values = np.random.default_rng(3), []
    for _ in range(100):
        a, b = ([{"x": int(x)} for x in rng.random(60) < 0.7] for _ in range(2))
        p_values.append(difference(Metric("m", Ratio("x")), a, b, [str(i) for i in range(60)]).p_value)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.1


def test_holm_adjusts_in_order():
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])


def test_t_quantile():
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (100, 1.984)):
        assert t_quantile(0.975, freedom) == pytest.approx(value, rel=0.01)
