"""The dynamics score: the mean of three linear regressions, each clipped to [0, 1].

Coefficients are read from a JSON file, or fitted to videos that people rated:

    {"levels": {"inter_frame": {"inputs": ["flow", "ssim", "phash"], "coefficients": [...], "intercept": ...},
                "inter_segment": {...}, "video": {...}}}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox import config
from cogvideox.atomic_io import write_text
from cogvideox.errors import UserError

OFFICIAL_INPUTS = {
    "inter_frame": ("flow", "ssim", "phash"),
    "inter_segment": ("dino_segm_dist", "viclip_segm_dist"),
    "video": ("info_dino", "temporal_entropy"),
}
"""Levels, and the measurements that the official regressions use."""


@dataclass(frozen=True)
class Level:
    """A linear regression of one level.

    Attributes:
        inputs: names of measurements.
        coefficients: one for each input.
    """

    inputs: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.coefficients) or not self.inputs:
            raise UserError(f"{len(self.inputs)} inputs and {len(self.coefficients)} coefficients: write one for each")

    def predict(self, measurement: Mapping[str, Any]) -> float:
        """Return the clipped prediction."""
        total = sum(coefficient * float(measurement[name]) for name, coefficient in zip(self.inputs, self.coefficients))
        return min(1.0, max(0.0, total + self.intercept))


@dataclass(frozen=True)
class DynamicsRegression:
    """The regressions of all levels."""

    levels: dict[str, Level]

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError("a regression needs at least one level")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all measurements that are used."""
        return tuple(dict.fromkeys(name for level in self.levels.values() for name in level.inputs))

    @property
    def is_complete(self) -> bool:
        """Whether it uses the levels and measurements of the official regressions."""
        return {name: level.inputs for name, level in self.levels.items()} == OFFICIAL_INPUTS

    def score(self, measurement: Mapping[str, Any]) -> float:
        """Return the dynamics score of a video, from 0 to 1."""
        return float(np.mean([level.predict(measurement) for level in self.levels.values()]))

    @classmethod
    def load(cls, path: Path) -> "DynamicsRegression":
        """Read a JSON file. Raises UserError if it cannot be read or is not a regression."""
        return config.load(cls, path)

    def save(self, path: Path) -> None:
        """Write a JSON file. Raises UserError if it cannot be written."""
        write_text(path, json.dumps(config.to_dict(self), indent=1) + "\n")


def fit(
    measurements: Sequence[Mapping[str, Any]],
    ratings: Mapping[str, Sequence[float]],
    inputs: Mapping[str, Sequence[str]] | None = None,
) -> DynamicsRegression:
    """Fit the regressions to rated videos by least squares.

    Args:
        measurements: measurements of each video.
        ratings: ratings of each video from 0 to 1, by level.
        inputs: measurements to use, by level; None uses those of the official regressions.

    Raises:
        UserError: too few videos, or a measurement is missing.
    """
    levels = {}
    for level, values in ratings.items():
        names = tuple((inputs or OFFICIAL_INPUTS)[level])
        if len(values) != len(measurements) or len(values) <= len(names):
            raise UserError(
                f"{level}: {len(values)} ratings of {len(measurements)} videos are too few, or do not match"
            )
        for name in names:
            if any(name not in measurement for measurement in measurements):
                raise UserError(f"{level}: not all videos have the measurement {name}")
        rows = np.array([[*(float(row[name]) for name in names), 1.0] for row in measurements])
        solution = np.linalg.lstsq(rows, np.asarray(values, dtype=np.float64), rcond=None)[0]
        levels[level] = Level(names, tuple(map(float, solution[:-1])), float(solution[-1]))
    return DynamicsRegression(levels)
