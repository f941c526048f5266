"""Results of an evaluation: scores with protocols, and the measurements they summarize."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cogvideox import config
from cogvideox.atomic_io import write_text
from cogvideox.errors import UserError
from cogvideox.evaluation.intervals import estimate
from cogvideox.evaluation.scorer import Measurement, Metric
from cogvideox.evaluation.suite import Suite
from cogvideox.evaluation.videos import VideoSet
from cogvideox.records import Score
from cogvideox.untrusted.files import read_json

FILE = "results.json"
VERSION = 1


@dataclass(frozen=True)
class VideoResult:
    """Measurements of one video.

    Attributes:
        file: path of the video; relative to the results if it was generated.
        info: see `scorer.Item`.
        measurements: measurements by scorer.
        errors: reasons for failures by scorer; the key of a failed generation is "".
    """

    id: str
    prompt: str
    group: str
    sample: int
    seed: int
    file: str
    info: dict[str, Any]
    measurements: dict[str, Any]
    errors: dict[str, str]


@dataclass(frozen=True)
class MetricInfo:
    """Display properties of a metric (`scorer.Metric`)."""

    name: str
    scorer: str
    meaning: str = ""
    unit: str = ""
    higher_is_better: bool | None = True
    per_video: str | None = None


@dataclass(frozen=True)
class EvaluationResults:
    """All results of an evaluation.

    Attributes:
        suite, options: name and options, from which `suites.registry.build_suite` builds the suite again.
        scores: overall, and by group if there are several; the group is in the protocol.
    """

    suite: str
    options: dict[str, Any]
    metrics: tuple[MetricInfo, ...]
    videos: tuple[VideoResult, ...]
    scores: tuple[Score, ...]
    version: int = VERSION

    def save(self, folder: Path) -> None:
        """Write `results.json`. Raises UserError if it cannot be written."""
        text = json.dumps(_without_nan(config.to_dict(self)), indent=1, allow_nan=False, ensure_ascii=True)
        write_text(folder / FILE, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> "EvaluationResults":
        """Read the results in a folder that `evaluate` wrote.

        Raises:
            UserError: there are none, or they are damaged.
        """
        if not (folder / FILE).is_file():
            raise UserError(f"{folder} has no {FILE}: run `cogvideox evaluate` with -o {folder} until it ends")
        data = read_json(folder / FILE)
        for score in data.get("scores", []):
            if isinstance(score, dict) and score.get("value") is None:
                score["value"] = math.nan
        return config.from_dict(cls, data, where=str(folder / FILE))

    def score(self, metric: str, group: str = "") -> Score | None:
        """Return a score by metric and group; None if there is none."""
        for score in self.scores:
            if score.metric == metric and score.protocol.get("group", "") == group:
                return score
        return None

    @property
    def groups(self) -> list[str]:
        """The groups with scores of their own."""
        return list(dict.fromkeys(score.protocol["group"] for score in self.scores if score.protocol.get("group")))


def summarize(
    suite: Suite,
    videos: VideoSet,
    measurements: Mapping[str, Mapping[str, Measurement]],
    errors: Mapping[str, Mapping[str, str]],
) -> EvaluationResults:
    """Compute all scores.

    Args:
        measurements, errors: measurements and reasons for failures, by scorer and item id.
    """
    scores: list[Score] = []
    metrics: list[MetricInfo] = []
    protocol = asdict(videos.protocol)
    for scorer in suite.scorers:
        items = [item for item in videos.items if not scorer.groups or item.group in scorer.groups]
        by_item, failed = measurements.get(scorer.name, {}), {**errors.get(scorer.name, {}), **errors.get("", {})}
        groups, settings = list(dict.fromkeys(item.group for item in items)), scorer.settings()
        for metric in scorer.metrics:
            info = (metric.meaning, metric.unit, metric.higher_is_better, metric.per_video)
            metrics.append(MetricInfo(metric.name, scorer.name, *info))
            for group in ("", *(groups if len(groups) > 1 else ())):
                chosen = [item for item in items if not group or item.group == group]
                measured = [item for item in chosen if item.id in by_item]
                result = estimate(
                    metric, [by_item[item.id] for item in measured], [item.prompt or item.id for item in measured]
                )
                if not result.num_videos:
                    continue
                details = {
                    "scorer": {"name": scorer.name, **settings},
                    "group": group,
                    "num_videos": result.num_videos,
                    "num_prompts": result.num_prompts,
                    "num_failures": sum(item.id in failed for item in chosen),
                    "interval": result.method,
                    **metric.details,
                }
                scores.append(Score(metric.name, result.value, result.interval, protocol | details))
    rows = tuple(
        VideoResult(
            item.id,
            item.prompt,
            item.group,
            item.sample,
            item.seed,
            _path(videos, item.id),
            dict(item.info),
            {name: values[item.id] for name, values in measurements.items() if item.id in values},
            {name: values[item.id] for name, values in errors.items() if item.id in values},
        )
        for item in videos.items
    )
    return EvaluationResults(suite.name, dict(suite.options), tuple(metrics), rows, tuple(scores))


def metric_by_name(suite: Suite, name: str) -> Metric:
    """Return a metric of a suite. Raises UserError if it has none of this name."""
    metrics: Sequence[Metric] = [metric for scorer in suite.scorers for metric in scorer.metrics]
    for metric in metrics:
        if metric.name == name:
            return metric
    raise UserError(f"the {suite.name} suite has no metric {name}: it has {', '.join(m.name for m in metrics)}")


def _path(videos: VideoSet, id: str) -> str:
    path, folder = videos.paths[id], videos.folder
    return str(path.resolve()) if folder is None else path.relative_to(folder).as_posix()


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without_nan(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and math.isnan(data) else data
