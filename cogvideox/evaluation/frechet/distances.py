"""Frechet and kernel distances between two sets of features, in float64.

Axes: n m features of each set, d width of a feature.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from cogvideox.errors import UserError

Features = Float[np.ndarray, "_n _d"]


@dataclass(frozen=True)
class Gaussian:
    """Mean and unbiased covariance of a set of features."""

    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Features) -> "Gaussian":
        """Estimate both from features. Raises UserError for fewer than two."""
        if len(features) < 2:
            raise UserError(f"a distribution needs at least two videos, got {len(features)}")
        x = features.astype(np.float64)
        centered = x - x.mean(axis=0)
        return cls(x.mean(axis=0), centered.T @ centered / (len(x) - 1))


def frechet_distance(a: Features | Gaussian, b: Features | Gaussian) -> float:
    """Return the squared Frechet distance of two Gaussians (Dowson & Landau 1982): FID and FVD, depending on features.

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)). The trace of the root is the sum of the root eigenvalues of the
    symmetric matrix A^(1/2) B A^(1/2), which needs no complex root of a matrix that is not symmetric.

    Raises:
        UserError: fewer than two features, or different widths.
    """
    p, q = (features if isinstance(features, Gaussian) else Gaussian.of(features) for features in (a, b))
    if p.mean.shape != q.mean.shape:
        raise UserError(f"features of width {len(p.mean)} and {len(q.mean)} cannot be compared: use one extractor")
    values, vectors = np.linalg.eigh(p.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ q.covariance @ root)
    overlap = float(np.sqrt(np.clip(eigenvalues, 0.0, None)).sum())
    difference = p.mean - q.mean
    return float(difference @ difference + np.trace(p.covariance) + np.trace(q.covariance)) - 2 * overlap


def kernel_distance(a: Features, b: Features, degree: int = 3) -> float:
    """Return the unbiased squared MMD with the kernel (x . y / d + 1)^degree (Binkowski et al. 2018): KID and KVD.

    Unlike the Frechet distance, its expected value does not depend on the number of videos. JEDi (Luo et al. 2024) has
    degree 2. It may be negative for similar sets.

    Raises:
        UserError: fewer than two features, or different widths.
    """
    if min(len(a), len(b)) < 2:
        raise UserError(f"a distribution needs at least two videos, got {len(a)} and {len(b)}")
    if a.shape[1] != b.shape[1]:
        raise UserError(f"features of width {a.shape[1]} and {b.shape[1]} cannot be compared: use one extractor")
    x, y = a.astype(np.float64), b.astype(np.float64)
    width = x.shape[1]
    xx, yy, xy = ((first @ second.T / width + 1.0) ** degree for first, second in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2.0 * xy.mean())


@dataclass(frozen=True)
class Extrapolation:
    """Frechet distances at several numbers of videos, and their extrapolation to infinitely many."""

    limit: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def extrapolated_frechet(
    a: Features, b: Features, *, num_sizes: int = 8, repeats: int = 5, seed: int = 0
) -> Extrapolation:
    """Extrapolate the Frechet distance to N = infinity (Chong & Forsyth 2020): it is nearly linear in 1 / N.

    Subsets of both sets, of equal fractions from a half to all, are drawn without replacement; the distances are
    fitted by a line in 1 / N, where N is the harmonic mean of both sizes.

    Raises:
        UserError: fewer than eight features in a set.
    """
    if min(len(a), len(b)) < 8:
        raise UserError(f"an extrapolation needs at least 8 videos in each set, got {len(a)} and {len(b)}")
    if min(len(a), len(b)) <= a.shape[1]:
        warnings.warn(
            f"{min(len(a), len(b))} videos for features of width {a.shape[1]}: the covariance is singular, and the "
            "Frechet distance far from its limit",
            stacklevel=2,
        )
    rng = np.random.default_rng(seed)
    inverse, distances, sizes = [], [], []
    for fraction in np.linspace(0.5, 1.0, num_sizes):
        n, m = (max(4, round(fraction * len(features))) for features in (a, b))
        values = [
            frechet_distance(a[rng.permutation(len(a))[:n]], b[rng.permutation(len(b))[:m]])
            for _ in range(repeats if fraction < 1.0 else 1)
        ]
        inverse.append((1 / n + 1 / m) / 2)
        distances.append(float(np.mean(values)))
        sizes.append(min(n, m))
    slope_and_limit = np.polyfit(inverse, distances, 1)
    return Extrapolation(float(slope_and_limit[1]), tuple(sizes), tuple(distances))
