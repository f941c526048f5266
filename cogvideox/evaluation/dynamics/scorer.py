"""Scorer of DEVIL: dynamics of every video, and dynamics-based quality of a set.

Bugs of the official code that are not copied, unless `official_bugs` is set: a video whose dynamics score is exactly 1
is dropped; RAFT gets pixels in 0..1, which it divides by 255 again, so that its context hardly varies. Official
regressions were fitted to flows with the second bug.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cogvideox.errors import UserError
from cogvideox.evaluation.dynamics import features
from cogvideox.evaluation.dynamics.aggregate import (
    BinnedQuality,
    binned_quality,
    controllability,
    dynamics_range,
    mean_quality,
)
from cogvideox.evaluation.dynamics.regression import DynamicsRegression
from cogvideox.evaluation.plugins import Plugin
from cogvideox.evaluation.scorer import Item, Measurement, Metric, VideoFile
from cogvideox.evaluation.store import file_hash
from cogvideox.untrusted.files import read_text

QUALITIES = ("motion_smoothness", "naturalness", "subject_consistency", "background_consistency")
"""The qualities of the official score, which is their mean."""


@dataclass(frozen=True)
class QualityStatistic:
    """Dynamics-based quality: mean over bins of dynamics, and over qualities."""

    regression: DynamicsRegression
    qualities: tuple[str, ...]
    part: Literal["overall", "low", "mid", "high", "num_filled"] = "overall"
    official_bugs: bool = False

    def __call__(self, measurements: Sequence[Measurement]) -> float:
        rows = _complete(measurements, (*self.regression.inputs, *self.qualities))
        if not rows:
            return float("nan")
        dynamics = [self.regression.score(row) for row in rows]
        binned: dict[str, BinnedQuality] = {
            name: binned_quality(dynamics, [row[name] for row in rows], official_bugs=self.official_bugs)
            for name in self.qualities
        }
        return float(getattr(mean_quality(binned), self.part))


@dataclass(frozen=True)
class DynamicsStatistic:
    """Range of the dynamics score, or its agreement with the grades of the prompts."""

    regression: DynamicsRegression
    kind: Literal["range", "controllability"]

    def __call__(self, measurements: Sequence[Measurement]) -> float:
        needed = (*self.regression.inputs, *(["grade"] if self.kind == "controllability" else []))
        rows = _complete(measurements, needed)
        dynamics = [self.regression.score(row) for row in rows]
        if self.kind == "range":
            return dynamics_range(dynamics) if dynamics else float("nan")
        grades = [int(row["grade"]) for row in rows]
        return controllability(grades, dynamics) if len(set(grades)) > 1 else float("nan")


@dataclass(frozen=True)
class Dynamics:
    """Scorer of DEVIL. Only qualities with a model are measured; the score is their mean.

    Attributes:
        regression: file of the regressions.
        flow, dino, subject, background: models; None omits what they measure.
        judge: settings of a judge of naturalness; None omits it.
        values: table with measurements of other tools, such as `motion_smoothness` and `viclip_segm_dist`.
        official_bugs: see the top of this file.
        responses: file of stored responses; set by the run.
    """

    regression: Path
    flow: Plugin | None = None
    dino: Plugin | None = None
    subject: Plugin | None = None
    background: Plugin | None = None
    judge: Path | None = None
    values: Path | None = None
    official_bugs: bool = False
    responses: Path | None = None
    name: str = "dynamics"
    groups: tuple[str, ...] = ()

    @property
    def uses_endpoint(self) -> bool:
        """Whether calls may cost money."""
        return self.judge is not None

    @property
    def qualities(self) -> tuple[str, ...]:
        """The qualities that are measured."""
        measured = {
            "naturalness": self.judge,
            "subject_consistency": self.subject,
            "background_consistency": self.background,
        }
        table = next(iter(self._table().values()), {})
        return tuple(name for name in QUALITIES if measured.get(name) is not None or name in table)

    @property
    def is_official(self) -> bool:
        """Whether all measurements and qualities are those of published scores."""
        complete = DynamicsRegression.load(self.regression).is_complete and self.qualities == QUALITIES
        return complete and (self.flow is None or self.flow.is_official) and self.judge is None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Range and controllability of dynamics, and quality by dynamics."""
        regression, qualities = DynamicsRegression.load(self.regression), self.qualities
        family, note = ("devil", "") if self.is_official else ("devil-variant", "; variant, not comparable")
        metrics = [
            Metric(
                f"{family}/range", DynamicsStatistic(regression, "range"), f"range of the dynamics score{note}", "%"
            ),
            Metric(
                f"{family}/controllability",
                DynamicsStatistic(regression, "controllability"),
                f"videos that move more than those of prompts with a lower grade{note}",
                "%",
            ),
        ]
        if qualities:
            details = {"qualities": ", ".join(qualities), "inputs": ", ".join(regression.inputs)}
            for part, meaning in (
                ("overall", "quality, mean over 12 bins of dynamics; a bin without videos is 0"),
                ("low", "the same, over the four bins with the least motion"),
                ("mid", "the same, over the four middle bins"),
                ("high", "the same, over the four bins with the most motion"),
                ("num_filled", "bins with videos, of 12"),
            ):
                statistic = QualityStatistic(regression, qualities, part, self.official_bugs)
                name = f"{family}/{'dynamic_quality' if part == 'overall' else part}"
                unit, better = ("", None) if part == "num_filled" else ("%", True)
                metrics.append(Metric(name, statistic, meaning + note, unit, better, details=details))
        return tuple(metrics)

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        plugins = {name: getattr(self, name) for name in ("flow", "dino", "subject", "background")}
        settings: dict[str, Any] = {name: model.settings() for name, model in plugins.items() if model is not None}
        if self.judge is not None:
            from cogvideox.evaluation.judge import naturalness
            from cogvideox.evaluation.judge.endpoint import identity

            settings["naturalness"] = {"rubric": f"{naturalness.ID} {naturalness.VERSION}", **identity(self.judge)}
        if self.values is not None:
            settings["values"] = file_hash(self.values)
        from cogvideox.video.entropy import x264_build

        return settings | {
            "regression": file_hash(self.regression),
            "x264": x264_build(),
            "official_bugs": self.official_bugs,
            "version": 1,
        }

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Load all models."""
        from cogvideox.video.entropy import temporal_entropy

        inputs = DynamicsRegression.load(self.regression).inputs
        flow, dino, subject, background = (
            None if model is None else model.open() for model in (self.flow, self.dino, self.subject, self.background)
        )
        table, rate = self._table(), None
        if self.judge is not None:
            from cogvideox.evaluation.judge.naturalness import open_naturalness

            rate = open_naturalness(self.judge, self.responses)

        def measure(file: VideoFile, item: Item) -> Measurement:
            video = file.video
            frames = features.at_target_rate(video.frames, video.fps)
            measurement: dict[str, Any] = dict(table.get(item.info.get("name", item.id), {}))
            if "grade" in item.info:
                measurement["grade"] = item.info["grade"]
            small = features.resize_long_side(frames)
            computed: dict[str, Callable[[], float]] = {
                "ssim": lambda: features.neighbor_similarity(small),
                "phash": lambda: features.hash_distance(frames),
                "temporal_entropy": lambda: temporal_entropy(video.frames, video.fps).value,
            }
            if flow is not None:
                # The bug: RAFT divides pixels by 255, which are already in 0..1 here.
                shown = small / 255.0 if self.official_bugs else small
                computed["flow"] = lambda: features.mean_speed(shown, flow)
            if dino is not None:
                embeddings = dino(frames)
                computed["info_dino"] = lambda: features.embedding_variance(embeddings)
                computed["dino_autocorrelation"] = lambda: features.autocorrelation_distance(embeddings)
            for name in inputs:
                if name not in measurement and name in computed:
                    measurement[name] = computed[name]()
                if name not in measurement:
                    raise UserError(
                        f"the regression needs {name}: add a model or a table that has it with --set (docs/evaluate.md)"
                    )
            for name, embed in (("subject_consistency", subject), ("background_consistency", background)):
                if embed is not None:
                    measurement[name] = features.consistency(embed(video.frames))
            if rate is not None:
                measurement["naturalness"] = rate(video)
            return measurement

        return measure

    def _table(self) -> Mapping[str, Mapping[str, float]]:
        return {} if self.values is None else read_values(self.values)


def read_values(path: Path) -> dict[str, dict[str, float]]:
    """Read measurements of other tools: a CSV table with the column `video_name` and a column for each measurement.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
        return {
            Path(row.pop("video_name")).stem: {name: float(value) for name, value in row.items() if value}
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table of numbers with the column video_name: {error}") from None


def _complete(measurements: Sequence[Measurement], names: Sequence[str]) -> list[Measurement]:
    return [row for row in measurements if all(name in row for name in names)]
