"""Runs of tiny ablations: every arm trains, resumes bit by bit and generates; any executor gives the same results."""

import json
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cogvideox.ablation.arm import Ablation
from cogvideox.ablation.plan import AblationPlan
from cogvideox.ablation.planner import plan_ablation
from cogvideox.ablation.registry import ABLATIONS
from cogvideox.ablation.report.write import write_report
from cogvideox.ablation.run import prepare, run_ablation
from cogvideox.ablation.runs import RESULTS, RUNS, Run, finish_run
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.training.diffusion import trainer as diffusion_trainer
from cogvideox.training.vae import trainer as vae_trainer
from tests.unit.ablation.tiny_ablations import tiny

STEPS = 3
MANY_STEPS = 20
"""More than a stage has checkpoints, so that a killed run repeats steps."""
QUICK = {"modulation": 2, "lengths": 1, "last-stage": 0, "vae-loss": 3}
"""Index of the arm that the quick tests train, by ablation; the slow tests train every arm."""


def planned(ablation: Ablation, out: Path, seeds: int = 1, steps: int = STEPS) -> AblationPlan:
    prepare(ablation, out)
    return plan_ablation(ablation, out, num_seeds=seeds, num_steps=steps, measured=False)


def results(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / RESULTS).glob("*.json"))}


@pytest.fixture(scope="module")
def sequential(tmp_path_factory) -> Path:
    """The folder of an ablation whose runs were finished one after the other."""
    out, ablation = tmp_path_factory.mktemp("sequential"), tiny("timesteps")
    assert run_ablation(ablation, planned(ablation, out), out)
    return out


def count_renames(work: Callable[[], object], last: int | None = None) -> int:
    """Run `work` and return the number of files and folders that it renames into place.

    Args:
        last: number of the rename before which the process kills itself.
    """
    count = 0

    def counted(rename: Callable[..., None]) -> Callable[..., None]:
        def rename_counted(*paths, **options) -> None:
            nonlocal count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths, **options)

        return rename_counted

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, counted(getattr(os, name)))
        assert work()
    return count


def check_arm(ablation: Ablation, index: int, out: Path, monkeypatch) -> None:
    """Check that a run whose trainings are stopped after every step ends like an uninterrupted one."""
    run = Run(ablation.arms[index].name, 0)
    plan = planned(ablation, out)
    file = finish_run(ablation, plan, run, out)
    content = json.loads(file.read_text())
    frames = np.load(file.with_suffix(".npz"))["frames"]
    for folder in (RESULTS, RUNS):  # the same folder again, because the order of clips depends on the path of a store
        (out / folder).rename(out / f"uninterrupted-{folder}")
    for trainer in (diffusion_trainer, vae_trainer):
        monkeypatch.setattr(trainer, "train", in_pieces(trainer.train))
    assert (
        finish_run(ablation, plan, run, out).read_bytes() == (out / f"uninterrupted-{RESULTS}" / file.name).read_bytes()
    )
    assert content["steps"] == [plan.num_steps(stage) for stage in ablation.arms[index].stages]
    values = {name: np.array(column, dtype=float) for name, column in content["values"].items()}
    if ablation.is_vae:
        assert np.isfinite(values["psnr"]).all()
    else:
        assert ("loss" in values) == bool(ablation.evaluation.clips)
        assert np.isfinite(values.get("loss", np.zeros(1))).all()
        assert len(values["facts"]) == ablation.evaluation.num_prompts
    assert frames.size > 0


def in_pieces(train: Callable[..., Path | None]) -> Callable[..., Path | None]:
    """Return a trainer that stops and resumes after every step."""

    def train_in_pieces(settings, out, *, resume):
        while (result := train(settings, out, resume=resume, max_seconds=0.0)) is None:
            pass
        return result

    return train_in_pieces


@pytest.mark.parametrize("name", QUICK)
def test_an_arm_trains_resumes_and_generates(name, tmp_path, monkeypatch):
    check_arm(tiny(name, all_sets=False), QUICK[name], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "index"), [(name, index) for name in ABLATIONS for index in range(len(tiny(name).arms))]
)
def test_every_arm_trains_resumes_and_generates(name, index, tmp_path, monkeypatch):
    check_arm(tiny(name), index, tmp_path, monkeypatch)


def test_shared_stages_are_trained_once(tmp_path):
    ablation = tiny("vae-long")
    plan = planned(ablation, tmp_path)
    assert run_ablation(ablation, plan, tmp_path)
    stages = sorted(folder.name for folder in (tmp_path / RUNS).iterdir() if folder.is_dir())
    assert stages[:2] == ["stage-2--17-frames-0", "stage-2--9-frames-0"]
    assert len(stages) == 3


@pytest.mark.parametrize("num_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_ablation_ends_with_the_same_results(num_kills, tmp_path):
    """Each kill is before a seeded number of the files that an uninterrupted ablation renames into place."""
    ablation, rng = tiny("timesteps"), np.random.default_rng(0)
    ablation = replace(ablation, arms=ablation.arms[1:], findings=())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    plan = planned(ablation, whole, steps=MANY_STEPS)
    num_renames = count_renames(lambda: run_ablation(ablation, plan, whole))
    for last in rng.integers(1, num_renames // num_kills, num_kills, endpoint=True).tolist():
        if (child := os.fork()) == 0:
            try:
                count_renames(lambda: run_ablation(ablation, plan, killed), last)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the process ended before it was killed"
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(results(killed)) < 2
    assert run_ablation(ablation, plan, killed)
    assert results(killed) == results(whole)
    assert len(results(whole)) == 2


def test_two_processes_give_the_same_results(sequential, tmp_path):
    ablation = tiny("timesteps")
    assert run_ablation(ablation, planned(ablation, tmp_path), tmp_path, workers=2)
    assert results(tmp_path) == results(sequential)


@pytest.mark.slow
def test_ray_gives_the_same_results(sequential, tmp_path):
    pytest.importorskip("ray.data")
    ablation = tiny("timesteps")
    assert run_ablation(ablation, planned(ablation, tmp_path), tmp_path, workers=2, backend="ray")
    assert results(tmp_path) == results(sequential)


@pytest.mark.slow
def test_jobs_of_an_array_finish_all_runs(sequential, tmp_path):
    ablation = tiny("timesteps")
    plan = planned(ablation, tmp_path)
    assert not run_ablation(ablation, plan, tmp_path, shard=Shard(0, 2))
    assert len(results(tmp_path)) == 2
    assert run_ablation(ablation, plan, tmp_path, shard=Shard(1, 2))
    assert results(tmp_path) == results(sequential)


def test_the_report_has_all_arms_and_findings(sequential):
    ablation = tiny("timesteps")
    report = write_report(ablation, planned(ablation, sequential), sequential).read_text()
    for arm in ablation.arms:
        assert f"| {arm.name} |" in report
    for finding in ablation.findings:
        assert f"| {finding.claim} | {finding.source} |" in report
    assert (sequential / "loss.png").is_file()
    assert (sequential / "samples.png").is_file()


def test_other_data_is_another_ablation(tmp_path):
    ablation = tiny("last-stage")
    assert ablation.data is not None
    plan_ablation(ablation, tmp_path, num_seeds=1, num_steps=3, measured=False)
    changed = replace(ablation, data=replace(ablation.data, overlay_probability=0.6))
    with pytest.raises(UserError, match="with different settings"):
        plan_ablation(changed, tmp_path, num_seeds=1, num_steps=3, measured=False)


def test_a_budget_scales_the_steps_of_all_arms(tmp_path):
    ablation = tiny("vae-padding")
    plan = plan_ablation(ablation, tmp_path, num_seeds=2, budget=60.0)
    assert set(plan.seconds) == {arm.name for arm in ablation.arms}
    assert plan.total_seconds == pytest.approx(2 * sum(plan.seconds.values()))
    # Training takes the budget on average, and scoring comes on top.
    assert sum(plan.seconds.values()) / len(plan.seconds) >= 59.9
    assert plan_ablation(ablation, tmp_path, num_seeds=2, budget=60.0) == plan
    more = plan_ablation(ablation, tmp_path, num_seeds=3, budget=60.0)
    assert (more.num_seeds, more.scale) == (3, plan.scale)
    with pytest.raises(UserError, match="planned for 60 s, not for 30 s"):
        plan_ablation(ablation, tmp_path, num_seeds=2, budget=30.0)
    with pytest.raises(UserError, match="contains the ablation vae-"):
        plan_ablation(tiny("timesteps"), tmp_path, num_seeds=2, budget=60.0)
