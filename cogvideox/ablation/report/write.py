"""Write the report of a finished ablation: `report.md`, `report.json`, `loss.png` and `samples.png`."""

import json
from pathlib import Path

import torch

from cogvideox import config
from cogvideox.ablation.arm import Ablation
from cogvideox.ablation.costs import costs_of
from cogvideox.ablation.plan import AblationPlan
from cogvideox.ablation.report import charts
from cogvideox.ablation.report.page import page
from cogvideox.ablation.report.summary import (
    FILE,
    AblationSummary,
    ArmSummary,
    cpu_name,
    describe_changes,
    judge_finding,
    read_results,
    summarize_metrics,
)
from cogvideox.ablation.runs import RUNS, list_runs, result_file
from cogvideox.atomic_io import write_text
from cogvideox.version import __version__


def write_report(ablation: Ablation, plan: AblationPlan, out: Path) -> Path:
    """Write the report into the folder of the ablation, and return the path of `report.md`.

    Raises:
        UserError: a result file is damaged, a file cannot be written, or matplotlib is not installed.
    """
    files = [result_file(ablation, run, out) for run in list_runs(ablation, plan)]
    results = read_results(ablation, plan, files)
    metrics = summarize_metrics(results, ablation.baseline.name)
    base = costs_of(ablation.baseline)
    arms = []
    for arm in ablation.arms:
        costs = costs_of(arm)
        arms.append(
            ArmSummary(
                name=arm.name,
                changes=describe_changes(ablation, arm.name),
                other_changes=arm.other_changes,
                steps=tuple(plan.num_steps(stage) for stage in arm.stages),
                parameters=costs.parameters,
                tokens=float(round(costs.tokens)),
                compute=round(costs.flops / base.flops, 3),
                metrics=metrics[arm.name],
            )
        )
    summary = AblationSummary(
        ablation=ablation.name,
        question=ablation.question,
        field=ablation.field,
        equal=ablation.equal,
        limits=ablation.limits,
        num_seeds=plan.num_seeds,
        requested=plan.requested,
        seconds=round(sum(map(training_seconds, (out / RUNS).iterdir())), 1),
        arms=tuple(arms),
        findings=tuple(judge_finding(results, finding) for finding in ablation.findings),
        is_vae=ablation.is_vae,
        environment={"processor": cpu_name(), "torch": torch.__version__, "cogvideox": __version__},
    )
    config.save(summary, out / FILE)
    charts.draw_losses(results, out / "loss.png")
    first = [result_file(ablation, run, out) for run in list_runs(ablation, plan)[: len(ablation.arms)]]
    frames = dict(zip((arm.name for arm in ablation.arms), charts.read_frames(first), strict=True))
    charts.draw_samples(frames, out / "samples.png")
    write_text(out / "report.md", page(summary))
    return out / "report.md"


def training_seconds(folder: Path) -> float:
    """Return the training time of a run from its metrics, without validation; 0 for other folders."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return 0.0
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return sum(line.get("ms_per_step", 0.0) for line in lines) / 1000
