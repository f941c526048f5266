import math

import numpy as np
import pytest

from cogvideox.ablation.intervals import paired_difference


def simulate(rng: np.random.Generator, seeds: int, items: int, of_seeds: float, of_items: float) -> np.ndarray:
    """Sample differences with a mean of 0 and crossed effects of seeds and items."""
    rest = rng.normal(0, 1, (seeds, items))
    return rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_items, (1, items)) + rest


@pytest.mark.parametrize(("seeds", "items"), [(3, 32), (3, 1), (5, 8)])
@pytest.mark.parametrize(("of_seeds", "of_items"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 2.0)])
def test_intervals_contain_the_mean_in_95_percent_of_experiments(seeds, items, of_seeds, of_items):
    """With one item, its own effect cannot be seen, so it is 0 here."""
    rng, num = np.random.default_rng(0), 600
    of_items *= items > 1
    contained = 0
    for _ in range(num):
        pairs = simulate(rng, seeds, items, of_seeds, of_items)
        interval = paired_difference(pairs, np.zeros_like(pairs)).interval
        assert interval is not None
        contained += interval[0] <= 0 <= interval[1]
    assert contained / num >= 0.925


def test_one_seed_decides_nothing():
    """The effect of a seed is the same for all items, so an interval over items only would exclude 0 for most pairs."""
    pairs = simulate(np.random.default_rng(0), 1, 32, 1.0, 0.0) + 5
    difference = paired_difference(pairs, np.zeros_like(pairs))
    assert difference.value == pytest.approx(pairs.mean())
    assert (difference.interval, difference.sign) == (None, 0)


def test_interval_of_one_factor_is_that_of_the_paired_t_test():
    """Differences 1, 2, 3: mean 2, deviation 1, so the half width is 4.3027 / sqrt(3)."""
    result = paired_difference(np.array([[4.0], [6.0], [5.0]]), np.array([[3.0], [4.0], [2.0]]))
    assert result.value == 2
    assert result.interval == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3)
    assert (result.num_seeds, result.num_items, result.sign) == (3, 1, 0)


def test_exchanged_arms_have_the_opposite_difference():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, (3, 20)), rng.normal(0, 1, (3, 20))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.value == -back.value
    assert there.interval == pytest.approx([-limit for limit in reversed(back.interval)])


def test_a_shared_effect_of_items_cancels():
    """The effect of an item on both arms does not widen the interval."""
    rng = np.random.default_rng(2)
    shared, rest = rng.normal(0, 100, (1, 20)), rng.normal(0, 1, (3, 20))
    low, high = paired_difference(shared + rest + 1, np.tile(shared, (3, 1))).interval
    assert high - low < 3


def test_missing_values_leave_out_their_item():
    result = paired_difference(np.array([[1.0, math.nan, 3.0], [1.0, 5.0, 4.0]]), np.zeros((2, 3)))
    assert (result.value, result.num_items) == (2.25, 2)
    assert paired_difference(np.array([[math.nan]]), np.zeros((1, 1))).interval is None
    assert paired_difference(np.array([[1.0]]), np.zeros((1, 1))).interval is None


def test_arms_with_other_items_are_an_error():
    with pytest.raises(ValueError, match="seeds and items must be the same"):
        paired_difference(np.ones((1, 2)), np.ones((1, 1)))
