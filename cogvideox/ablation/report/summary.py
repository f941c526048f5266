"""Summary of an ablation's runs: means and paired differences of all metrics, and verdicts on the paper's findings.

Imports no torch.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from cogvideox.ablation.arm import Ablation, Finding, Settings, differences
from cogvideox.ablation.intervals import PairedDifference, paired_difference
from cogvideox.ablation.plan import AblationPlan
from cogvideox.ablation.scores.metrics import METRICS, metric_of
from cogvideox.errors import UserError
from cogvideox.training.diffusion.config import DiffusionTraining

FILE = "report.json"
Verdict = Literal["agrees", "disagrees", "undecided"]


@dataclass(frozen=True)
class MetricSummary:
    """A metric of an arm.

    Attributes:
        mean: over seeds and items; None if the arm has no value.
        difference: from the baseline, with the limits of its 95 % interval; empty for the baseline.
    """

    mean: float | None
    difference: tuple[float, ...] = ()


@dataclass(frozen=True)
class ArmSummary:
    """An arm and its metrics.

    Attributes:
        changes: settings that differ from the baseline: "name: old -> new", with the stage before the last one named.
        steps: steps of each stage.
        tokens: tokens of a step; pixels of a VAE's step.
        compute: FLOPs of the training relative to the baseline.
    """

    name: str
    changes: tuple[str, ...]
    other_changes: str
    steps: tuple[int, ...]
    parameters: int
    tokens: float
    compute: float
    metrics: dict[str, MetricSummary]


@dataclass(frozen=True)
class FindingSummary:
    """A finding of the paper beside ours: the advantage of the arm that is better in the paper; None if the runs do not
    have the metric."""

    claim: str
    source: str
    metric: str
    better: str
    worse: str
    advantage: float | None
    interval: tuple[float, ...]
    verdict: Verdict


@dataclass(frozen=True)
class AblationSummary:
    """The summary of an ablation.

    Attributes:
        seconds: training time of all runs.
        is_vae: whether the arms train a VAE.
        environment: the processor and versions.
    """

    ablation: str
    question: str
    field: str
    equal: tuple[str, ...]
    limits: str
    num_seeds: int
    requested: str
    seconds: float
    arms: tuple[ArmSummary, ...]
    findings: tuple[FindingSummary, ...]
    is_vae: bool = False
    environment: dict[str, str] = field(default_factory=dict)


ArmResults = Mapping[str, Sequence[Mapping[str, Any]]]
"""The content of the result files of each arm, by seed."""


def read_results(ablation: Ablation, plan: AblationPlan, files: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Read the result files of all runs.

    Raises:
        UserError: a file cannot be read.
    """
    results: dict[str, dict[int, dict[str, Any]]] = {arm.name: {} for arm in ablation.arms}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            results[content["arm"]][content["seed"]] = content
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file} is not the result of a run: delete it, and run the ablation again") from error
    return {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in results.items()}


def values_of(results: Sequence[Mapping[str, Any]], metric: str) -> Float64[np.ndarray, "seeds items"] | None:
    """Return the values of a metric, NaN where it does not apply; None if the runs do not have it."""
    columns = [run["values"].get(metric) for run in results]
    if not columns or any(column is None for column in columns):
        return None
    return np.array([[math.nan if value is None else value for value in column] for column in columns])


def metric_names(results: ArmResults) -> list[str]:
    """Return the metrics that any run has, in the order of `METRICS`, those of the trained size first."""
    names = {name: None for runs in results.values() for run in runs for name in run["values"]}
    order = list(METRICS)
    return sorted(names, key=lambda name: ("," in name, name.partition(", ")[2], order.index(metric_of(name).name)))


def summarize_metrics(results: ArmResults, baseline: str) -> dict[str, dict[str, MetricSummary]]:
    """Return the summary of each arm's metrics, by arm and metric."""
    summaries: dict[str, dict[str, MetricSummary]] = {name: {} for name in results}
    for metric in metric_names(results):
        base = values_of(results[baseline], metric)
        for name, runs in results.items():
            values = values_of(runs, metric)
            if values is None or np.isnan(values).all():
                summaries[name][metric] = MetricSummary(None)
                continue
            numbers: tuple[float, ...] = ()
            if name != baseline and base is not None and values.shape == base.shape:
                difference = paired_difference(values, base)
                numbers = (difference.value, *(difference.interval or ()))
            summaries[name][metric] = MetricSummary(
                _rounded(float(np.nanmean(values))), tuple(_rounded(number) for number in numbers)
            )
    return summaries


def judge_finding(results: ArmResults, finding: Finding) -> FindingSummary:
    """Compare the paper's finding with the runs: it agrees if the interval of the advantage is above 0."""
    better, worse = (values_of(results[name], finding.metric) for name in (finding.better, finding.worse))
    difference = PairedDifference(math.nan, None, 0, 0)
    if better is not None and worse is not None:
        difference = paired_difference(better, worse)
    sign = -1.0 if metric_of(finding.metric).lower_is_better else 1.0
    interval = tuple(sorted(_rounded(sign * limit) for limit in difference.interval or ()))
    verdicts: dict[float, Verdict] = {1.0: "agrees", -1.0: "disagrees"}
    advantage = None if math.isnan(difference.value) else _rounded(sign * difference.value)
    return FindingSummary(
        claim=finding.claim,
        source=finding.source,
        metric=finding.metric,
        better=finding.better,
        worse=finding.worse,
        advantage=advantage,
        interval=interval,
        verdict=verdicts.get(sign * difference.sign, "undecided"),
    )


def describe_changes(ablation: Ablation, name: str) -> tuple[str, ...]:
    """Return the settings of an arm's stages that differ from the baseline's, or the number of stages."""
    arm, base = ablation.arm(name), ablation.baseline
    if len(arm.stages) != len(base.stages):
        return (f"stages: {len(base.stages)} -> {len(arm.stages)}",)
    changes: list[str] = []
    for number, (stage, of_base) in enumerate(zip(arm.stages, base.stages, strict=True), start=1):
        prefix = f"stage {number}: " if number < len(arm.stages) else ""
        changes += [prefix + change for change in _stage_changes(stage, of_base)]
    return tuple(changes)


def _stage_changes(stage: Settings, base: Settings) -> list[str]:
    if isinstance(stage, DiffusionTraining) and isinstance(base, DiffusionTraining):
        num_sources = len(base.toybox), len(stage.toybox)
        if num_sources[0] != num_sources[1]:
            return [f"toybox: {num_sources[0]} sources -> {num_sources[1]}"]
    changed = differences(stage, base)
    return [f"{setting}: {_shown(old)} -> {_shown(new)}" for setting, (old, new) in changed.items()]


def _shown(value: Any) -> str:
    string = str(value)
    return string if len(string) <= 60 else f"{string[:57]}..."


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def cpu_name() -> str:
    """Return the name and the number of cores of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{name}, {os.cpu_count()} cores"
