"""The interface of scorers: a measurement of each single video, and metrics that summarize all measurements.

    scorer.open(worker) -> measure          loads models, once per process
    measure(file, item) -> measurement      JSON values of one video; cached by the video's content and `settings()`
    metric.statistic(measurements) -> float the metric over videos, also evaluated on bootstrap resamples

A scorer is a small picklable object, such as a frozen dataclass of paths and thresholds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from cogvideox.errors import UserError
from cogvideox.records import Video

Measurement = Mapping[str, Any]
"""JSON values measured on one video, by name."""
Statistic = Callable[[Sequence[Measurement]], float]
"""Function that summarizes the measurements of all videos; NaN if there are no measurements."""


class EvaluationStopped(UserError):
    """The evaluation cannot continue, for example because the budget of a judge is exhausted; its results are kept."""


@dataclass(frozen=True)
class Item:
    """A video that a suite needs.

    Attributes:
        id: unique in the suite; usable as a file name.
        prompt: the prompt as the suite publishes it, which scorers compare the video with.
        group: kind of prompt, such as a dimension of VBench. Scorers may be limited to groups.
        sample: index among the videos of the same prompt, from 0.
        seed: random seed of the video.
        info: further inputs of scorers, such as names of objects; JSON values. `start` and `end` in seconds make the
            item a segment of its file.
        generation_prompt: rewritten prompt from which the video is generated; None uses `prompt`.
    """

    id: str
    prompt: str
    group: str = ""
    sample: int = 0
    seed: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    generation_prompt: str | None = None


@dataclass(frozen=True)
class VideoFile:
    """A video to measure: its file, and its frames, which are decoded when they are first used.

    Attributes:
        start, end: seconds from the first frame; None is the beginning or end of the file.
    """

    path: Path
    start: float | None = None
    end: float | None = None

    @cached_property
    def video(self) -> Video:
        """All frames at the file's frame rate. Raises UserError if the file cannot be read."""
        return Video.load(self.path, self.start, self.end)


@dataclass(frozen=True)
class Ratio:
    """Sum of one value over the sum of another, over all videos that have both; without a denominator, the mean."""

    numerator: str
    denominator: str | None = None

    def terms(self, measurement: Measurement) -> tuple[float, float] | None:
        """Return numerator and denominator of one video; None if the video has no value."""
        top = measurement.get(self.numerator)
        bottom = 1.0 if self.denominator is None else measurement.get(self.denominator)
        return None if top is None or bottom is None or math.isnan(top) else (float(top), float(bottom))

    def __call__(self, measurements: Sequence[Measurement]) -> float:
        terms = [pair for measurement in measurements if (pair := self.terms(measurement)) is not None]
        total = sum(bottom for _, bottom in terms)
        return sum(top for top, _ in terms) / total if total else math.nan


@dataclass(frozen=True)
class Metric:
    """A number that summarizes the measurements of a scorer.

    Attributes:
        name: unique among all scorers, such as "toybox/color".
        statistic: function that computes the metric.
        meaning: one line for tables and reports.
        unit: "%" for fractions, which are printed in percent; "dB", "levels" or empty.
        higher_is_better: None if neither direction is better.
        per_video: name of the measured value by which the best and worst videos are chosen; None if there is none.
        details: further entries of the protocol, such as the reference of a distance; JSON values.
        resampling: how its interval is computed (`intervals`).
    """

    name: str
    statistic: Statistic
    meaning: str = ""
    unit: str = ""
    higher_is_better: bool | None = True
    per_video: str | None = None
    resampling: Literal["bootstrap", "jackknife"] = "bootstrap"
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Scorer(Protocol):
    """Protocol of scorers; see the top of this file.

    Attributes:
        name: unique name, such as "vbench/scene"; also names the cache.
        groups: groups of items to measure; empty: all.
        metrics: summaries of the measurements.
    """

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> tuple[str, ...]: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def settings(self) -> dict[str, Any]:
        """Return everything that measurements depend on, as JSON values: models' hashes, thresholds, a version."""
        ...

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Load models and return the function that measures one video.

        It raises `UserError` if a video cannot be measured, which counts as a failure and not as a score of 0.
        """
        ...
