"""Scorer of a set of videos against a reference set: Frechet and kernel distance of their features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cogvideox.evaluation.frechet.distances import extrapolated_frechet, frechet_distance, kernel_distance
from cogvideox.evaluation.frechet.features import check_extractor, open_extractor
from cogvideox.evaluation.scorer import Item, Measurement, Metric, Statistic, VideoFile

KEY = "features"
MIN_VIDEOS = 8


@dataclass(frozen=True)
class SetDistance:
    """Distance of the features under `key` to fixed features, or to the features under `other` of the same videos."""

    kind: str
    key: str = KEY
    other: str = ""
    reference: tuple[tuple[float, ...], ...] = ()

    def __call__(self, measurements: Sequence[Measurement]) -> float:
        a = np.array([row[self.key] for row in measurements if self.key in row], dtype=np.float64)
        if len(a) < MIN_VIDEOS:
            return float("nan")
        b = self._reference if not self.other else np.array([row[self.other] for row in measurements], dtype=np.float64)
        return _DISTANCES[self.kind](a, b)

    @cached_property
    def _reference(self) -> np.ndarray:
        return np.array(self.reference, dtype=np.float64)


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "frechet": frechet_distance,
    "extrapolated": lambda a, b: extrapolated_frechet(a, b).limit,
    "kernel": kernel_distance,
}


def distance_metrics(
    prefix: str, statistic: Callable[[str], Statistic], details: Mapping[str, Any]
) -> tuple[Metric, ...]:
    """Return the three distances of a set. `details` go into the protocol."""
    meanings = {
        "frechet": "squared Frechet distance; depends on the number of videos",
        "extrapolated": "the same, extrapolated to infinitely many videos",
        "kernel": "unbiased squared MMD, cubic kernel",
    }
    return tuple(
        Metric(
            f"{prefix}/{kind}",
            statistic(kind),
            meaning,
            higher_is_better=False,
            resampling="jackknife",
            details=details,
        )
        for kind, meaning in meanings.items()
    )


@dataclass(frozen=True)
class FeatureDistance:
    """Scorer of the distances of features to those of a reference.

    Attributes:
        features: see `features`.
        reference: features of the reference videos; without them there are measurements and no scores.
        reference_name: name of the reference, for the protocol.
    """

    features: str = "random"
    reference: tuple[tuple[float, ...], ...] = ()
    reference_name: str = ""
    name: str = "frechet"
    groups: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The distances to the reference."""
        if not self.reference:
            return ()
        details = {"reference": self.reference_name, "num_reference_videos": len(self.reference)}
        return distance_metrics("frechet", lambda kind: SetDistance(kind, reference=self.reference), details)

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        return check_extractor(self.features) | {"scorer_version": "2"}

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Load the extractor."""
        extract, weights = open_extractor(self.features), check_extractor(self.features).get("weights", "")
        return lambda file, item: {
            KEY: [round(float(value), 7) for value in extract(file.video.frames)],
            "weights": weights,
        }
