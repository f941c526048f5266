"""Intervals over prompts and raters contain the true mean in 95 % of simulated studies."""

import numpy as np
import pytest

from cogvideox.evaluation.human.intervals import crossed_estimates, rater_warning, weighted_means
from cogvideox.evaluation.human.simulation import RaterPopulation, expected_score, simulate_scores

POPULATION = RaterPopulation()
NUM_PROMPTS = 30


def quality(rng: np.random.Generator, number: int) -> np.ndarray:
    return rng.beta([3, 2], [1.5, 2], (number, 2))


def estimates(scores: np.ndarray):
    rater, prompt, model = (index.ravel() for index in np.indices(scores.shape))
    statistics = weighted_means(scores.ravel(), model.astype(str).tolist(), ["0", "1"], difference=True)
    return crossed_estimates(statistics, prompt.astype(str).tolist(), rater.astype(str).tolist(), num_resamples=200)


def test_the_expected_score_is_the_mean_of_many_raters():
    videos = np.array([[0.1, 0.5], [0.7, 0.95]])
    scores = simulate_scores(videos, 100_000, POPULATION, np.random.default_rng(0))
    np.testing.assert_allclose(scores.mean(0), expected_score(videos, POPULATION), atol=0.005)


@pytest.mark.parametrize("num_raters", [8, 3])
def test_intervals_cover_the_mean_of_the_population(num_raters):
    rng = np.random.default_rng(num_raters)
    means = expected_score(quality(rng, 5_000), POPULATION).mean(0)
    truth = np.array([*means, means[0] - means[1]])
    covered = np.zeros(3)
    for _ in range(100):
        scores = simulate_scores(quality(rng, NUM_PROMPTS), num_raters, POPULATION, rng)
        for index, estimate in enumerate(estimates(scores)):
            assert estimate.interval is not None
            covered[index] += estimate.interval[0] <= truth[index] <= estimate.interval[1]
    assert (covered >= 89).all(), covered  # a binomial of 100 with 0.95 is below 89 in 0.4 % of cases


def test_one_source_of_variance_gives_the_textbook_interval():
    """If raters agree exactly, the interval is that of Student's t over prompts."""
    rng = np.random.default_rng(0)
    by_prompt = rng.normal(size=12)
    scores = np.repeat(by_prompt[None, :, None], 2, axis=2).repeat(6, axis=0)
    estimate = estimates(scores)[0]
    half = 2.201 * by_prompt.std(ddof=1) / np.sqrt(12)
    assert estimate.value == pytest.approx(by_prompt.mean())
    assert estimate.interval == pytest.approx((by_prompt.mean() - half, by_prompt.mean() + half), rel=0.1)
    assert estimate.rater_fraction < 0.02


def test_few_raters_widen_the_interval_and_give_a_warning():
    rng = np.random.default_rng(1)
    videos = quality(rng, NUM_PROMPTS)
    widths = {}
    for number in (3, 8, 20):
        low, high = np.mean(
            [estimates(simulate_scores(videos, number, POPULATION, rng))[0].interval for _ in range(10)], axis=0
        )
        widths[number] = high - low
    assert widths[3] > 1.3 * widths[8] > 1.3 * widths[20]
    assert "only 3 raters" in str(rater_warning(3)) and rater_warning(8) is None
    two = estimates(simulate_scores(videos, 2, POPULATION, rng))[0]
    assert not two.over_raters and "not other raters" in str(rater_warning(2))


def test_one_prompt_has_no_interval():
    assert estimates(np.ones((4, 1, 2)))[0].interval is None
