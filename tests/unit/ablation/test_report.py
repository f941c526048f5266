"""Summaries of results whose differences are known, and the page of results."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cogvideox import config
from cogvideox.ablation.arm import Finding
from cogvideox.ablation.curves import averaged, loss_variance
from cogvideox.ablation.planner import plan_ablation
from cogvideox.ablation.registry import get_ablation
from cogvideox.ablation.report.page import page
from cogvideox.ablation.report.summary import (
    AblationSummary,
    ArmSummary,
    FindingSummary,
    MetricSummary,
    describe_changes,
    judge_finding,
    summarize_metrics,
)

ROOT = Path(__file__).parent.parent.parent.parent
SUMMARY = AblationSummary(
    ablation="timesteps",
    question="Which is better?",
    field="timestep_sampling",
    equal=("parameters",),
    limits="It is small.",
    num_seeds=3,
    requested="60 s",
    seconds=90.0,
    arms=(
        ArmSummary("a", (), "", (10,), 1000, 64.0, 1.0, {"facts": MetricSummary(0.5)}),
        ArmSummary("b", ("x: 1 -> 2",), "y", (10, 5), 1000, 64.0, 1.1, {"facts": MetricSummary(0.6, (0.1, -0.1, 0.3))}),
    ),
    findings=(FindingSummary("b is better", "table 1", "facts", "b", "a", 0.1, (-0.1, 0.3), "undecided"),),
    environment={"processor": "a CPU"},
)


def results(difference: float) -> dict[str, list[dict]]:
    """Return results of two arms and three seeds whose losses differ by about `difference` in each clip."""
    rng = np.random.default_rng(0)
    base, noise = rng.normal(1, 0.1, (3, 16)), rng.normal(0, 0.01, (3, 16))
    arms = {"a": base, "b": base + difference + noise}
    return {
        arm: [{"values": {"loss": row.tolist(), "loss variance": [None]}} for row in rows] for arm, rows in arms.items()
    }


@pytest.mark.parametrize(("difference", "verdict"), [(0.1, "agrees"), (-0.1, "disagrees"), (0.0, "undecided")])
def test_the_sign_of_the_interval_decides(difference, verdict):
    """A lower loss is better, so `a` is better than `b` if the loss of `b` is higher."""
    finding = judge_finding(results(difference), Finding("a is better", "table 1", "loss", "a", "b"))
    assert finding.verdict == verdict
    assert finding.advantage == pytest.approx(difference, abs=0.01)
    assert finding.interval[0] <= finding.advantage <= finding.interval[1]


def test_a_metric_without_values_is_not_measured():
    finding = judge_finding(results(0.1), Finding("a is smoother", "table 1", "loss variance", "a", "b"))
    assert (finding.verdict, finding.advantage, finding.interval) == ("undecided", None, ())
    summaries = summarize_metrics(results(0.1), "a")
    assert summaries["a"]["loss variance"].mean is None
    assert summaries["a"]["loss"].difference == ()
    assert summaries["b"]["loss"].difference[0] == pytest.approx(0.1, abs=0.01)


def test_changes_are_described_by_their_settings():
    assert describe_changes(get_ablation("timesteps"), "random") == ("timestep_sampling: explicit_uniform -> random",)
    assert describe_changes(get_ablation("last-stage"), "no last stage") == ("stages: 2 -> 1",)
    assert "stage 1: target.height: 32 -> 64" in describe_changes(get_ablation("resolution"), "high only")
    assert describe_changes(get_ablation("lengths"), "fixed length") == ("toybox: 4 sources -> 1",)


def test_the_page_has_metrics_and_verdicts():
    text = page(SUMMARY)
    assert "| correct facts, % | 50.0 | 60.0<br>+10.0 (-10.0 to +30.0) |" in text
    assert "| b | `x: 1 -> 2`<br>y | 10 + 5 | 1,000 | 64 | 1.10 |" in text
    assert "| b is better | table 1 | correct facts, %: b vs. a | +10.0 (-10.0 to +30.0) | **undecided** |" in text
    assert page(SUMMARY, level=3, images=False).startswith("### timesteps\n")


def test_summaries_are_stored(tmp_path):
    config.save(SUMMARY, tmp_path / "report.json")
    assert config.load(AblationSummary, tmp_path / "report.json") == SUMMARY


def test_the_results_page_is_generated_from_the_stored_reports(tmp_path):
    program = load_program()
    text = program.PAGE.read_text(encoding="utf-8")
    files = [file for name in program.ABLATIONS if (file := program.RESULTS / f"{name}.json").exists()]
    assert program.updated_page(text, program.results_section(files)) == text
    config.save(SUMMARY, tmp_path / "timesteps.json")
    section = program.results_section([tmp_path / "timesteps.json"])
    assert "| [timesteps](#timesteps) | b is better (table 1) | undecided |" in section
    assert section in program.updated_page(text, section)


def test_a_finished_ablation_of_another_budget_is_refused(tmp_path, capfd):
    """The command is called for finished ablations, too, so it checks the budget."""
    out = tmp_path / "vae-padding"
    plan_ablation(get_ablation("vae-padding"), out, num_seeds=3, num_steps=10, measured=False)
    config.save(SUMMARY, out / "report.json")
    assert load_program().run(tmp_path, ["vae-padding"], 3, "30s", 100.0) == 2
    assert "planned for 10 steps, not for 30 s" in capfd.readouterr().err


def load_program() -> ModuleType:
    """Import `benchmarks/ablations.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("ablations", ROOT / "benchmarks/ablations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_variance_of_the_loss_ignores_its_trend():
    """Noise of variance 0.04 around a falling line."""
    rng = np.random.default_rng(0)
    losses = 5 - 0.001 * np.arange(4_000) + rng.normal(0, 0.2, 4_000)
    assert loss_variance(losses.tolist()) == pytest.approx(0.04, rel=0.1)
    assert loss_variance((5 - 0.001 * np.arange(4_000)).tolist()) == pytest.approx(0, abs=1e-9)
    assert math.isnan(loss_variance([1.0] * 60))


def test_curves_are_averaged_in_groups():
    assert averaged([(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0), (5, 9.0)], 3) == [(2, 2.0), (4, 6.0), (5, 9.0)]
