"""The curve of a run's training loss: reading, averaging and its variance over steps. Imports no torch."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Curve = list[tuple[int, float]]

WINDOW = 25
"""Steps over which the loss is averaged to remove its trend."""


def read_curve(folder: Path) -> Curve:
    """Return the logged training loss of each step of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(int(line["step"]), float(line["loss"])) for line in lines if "loss" in line]


def averaged(curve: Curve, num_points: int) -> Curve:
    """Return at most `num_points` points, means of consecutive steps."""
    size = max(1, -(-len(curve) // num_points))
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def loss_variance(losses: Sequence[float]) -> float:
    """Return the variance of the loss over the second half of the steps, relative to a moving average.

    NaN if the half has fewer steps than two windows.
    """
    half = np.asarray(losses[len(losses) // 2 :], dtype=np.float64)
    if len(half) < 2 * WINDOW:
        return float("nan")
    trend = np.convolve(half, np.full(WINDOW, 1 / WINDOW), mode="valid")
    margin = WINDOW // 2
    # A window contains its own center, which makes the residual smaller by this factor.
    residual = (half[margin : margin + len(trend)] - trend) / np.sqrt(1 - 1 / WINDOW)
    return float(np.mean(residual**2))
