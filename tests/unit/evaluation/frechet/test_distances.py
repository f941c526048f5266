"""Frechet and kernel distances against scipy and scikit-learn, and against closed forms."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.metrics.pairwise import polynomial_kernel

from cogvideox.errors import UserError
from cogvideox.evaluation.frechet.distances import (
    Gaussian,
    extrapolated_frechet,
    frechet_distance,
    kernel_distance,
)


def sets(n: int = 120, m: int = 90, d: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(0.3, 1.2, (m, d)) @ rng.normal(size=(d, d))


@pytest.mark.parametrize("n", [120, 12], ids=["regular", "singular"])
def test_frechet_equals_the_matrix_root_of_scipy(n: int):
    a, b = sets(n)
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_equals_that_of_scikit_learn():
    a, b = sets()
    xx, yy, xy = (polynomial_kernel(x, y, degree=3, coef0=1) for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    expected = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean()
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_commuting_gaussians_have_a_closed_form():
    p = Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    q = Gaussian(np.array([0.0, 0.0]), np.diag([1.0, 16.0]))
    assert frechet_distance(p, q) == pytest.approx(5.0 + 1.0 + 1.0)
    assert frechet_distance(p, p) == pytest.approx(0.0, abs=1e-9)


def test_frechet_is_symmetric_and_invariant_to_rotation():
    a, b = sets()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))[0]
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(distance)


def test_kernel_distance_is_unbiased_and_frechet_is_not():
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(size=(30, 8)), rng.normal(size=(30, 8))) for _ in range(200)]
    kernel = [kernel_distance(a, b) for a, b in pairs]
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / np.sqrt(len(kernel))
    assert np.mean([frechet_distance(a, b) for a, b in pairs]) > 0.3


def test_extrapolation_is_closer_to_the_limit():
    """The true distance is |mean|^2 = 2."""
    rng = np.random.default_rng(3)
    errors, extrapolated = [], []
    for _ in range(10):
        a, b = rng.normal(size=(200, 16)), rng.normal(size=(200, 16)) + np.sqrt(2 / 16)
        errors.append(frechet_distance(a, b) - 2)
        extrapolated.append(extrapolated_frechet(a, b).limit - 2)
    assert np.mean(errors) > 0.5 and abs(np.mean(extrapolated)) < 0.4 * np.mean(errors)


def test_float32_features_are_compared_in_float64():
    a, b = sets()
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(
        frechet_distance(a, b), rel=1e-5
    )


def test_impossible_comparisons_are_errors():
    a, b = sets()
    with pytest.raises(UserError, match="at least two videos"):
        frechet_distance(a[:1], b)
    with pytest.raises(UserError, match="width 24 and 23"):
        frechet_distance(a, b[:, :23])
    with pytest.raises(UserError, match="width 24 and 23"):
        kernel_distance(a, b[:, :23])
    with pytest.raises(UserError, match="at least 8"):
        extrapolated_frechet(a[:5], b)
    with pytest.warns(UserWarning, match="singular"):
        extrapolated_frechet(a[:20], b)
