"""Make the plan of an ablation: time a few steps of each arm, and scale the steps of all arms to a time budget."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from filelock import FileLock

from cogvideox import config
from cogvideox.ablation.arm import Ablation, Arm, Evaluation, num_steps_of, scaled
from cogvideox.ablation.plan import FILE, AblationPlan, check_plan, read_plan
from cogvideox.ablation.runs import RUNS, score_run, single_thread, train_stage

NUM_TIMED_STEPS = 4
"""The first one, which is slower, is not counted."""


@dataclass(frozen=True)
class Speed:
    """Measured speed of an arm.

    Attributes:
        step_seconds: seconds per step of each stage.
        scoring_seconds: seconds to score a run.
    """

    step_seconds: tuple[float, ...]
    scoring_seconds: float

    def training_seconds(self, arm: Arm, scale: float = 1.0) -> float:
        """Return the predicted duration of an arm's training."""
        stages = zip(arm.stages, self.step_seconds, strict=True)
        return sum(stage.run.num_steps * scale * seconds for stage, seconds in stages)


def plan_ablation(
    ablation: Ablation,
    out: Path,
    *,
    num_seeds: int,
    budget: float | None = None,
    num_steps: int | None = None,
    measured: bool = True,
) -> AblationPlan:
    """Return the plan in the folder `out`, or make one and store it. More seeds may be added to a stored plan.

    Args:
        budget: mean training time of a run in seconds.
        num_steps: steps of the baseline instead, over all of its stages.
        measured: time a few steps of each arm; needed for a budget.

    Raises:
        UserError: the folder has a different ablation, or one with a different budget.
        AblationStopped: the measurement was interrupted by a signal.
    """
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / "plan.lock"):  # jobs of a job array wait for the plan of the first
        return _plan(ablation, out, num_seeds, budget, num_steps, measured)


def _plan(
    ablation: Ablation, out: Path, num_seeds: int, budget: float | None, num_steps: int | None, measured: bool
) -> AblationPlan:
    requested = f"{num_steps} steps" if num_steps is not None else f"{budget:g} s"
    inputs = config.digest([*(arm.stages for arm in ablation.arms), ablation.evaluation, ablation.data], "Ablation")
    stored = read_plan(out)
    if stored is not None:
        check_plan(stored, ablation, inputs, requested, out)
        plan = replace(stored, num_seeds=max(stored.num_seeds, num_seeds))
    else:
        speeds = {}
        if measured:
            with single_thread():
                speeds = measure_speeds(ablation, out)
        if num_steps is not None:
            scale = num_steps / num_steps_of(ablation.baseline.stages)
        else:
            assert budget is not None
            assert measured
            nominal = [speeds[arm.name].training_seconds(arm) for arm in ablation.arms]
            scale = budget * len(nominal) / sum(nominal)
        seconds = {
            name: round(speed.training_seconds(ablation.arm(name), scale) + speed.scoring_seconds, 1)
            for name, speed in speeds.items()
        }
        plan = AblationPlan(ablation.name, inputs, requested, num_seeds, scale, seconds)
    if plan != stored:
        config.save(plan, out / FILE)
    return plan


def measure_speeds(ablation: Ablation, out: Path) -> dict[str, Speed]:
    """Time a few steps of every stage of every arm, and the scoring of a model. Clips are encoded for all runs.

    Raises:
        AblationStopped: a training was stopped by a signal.
    """
    speeds = {}
    for arm in ablation.arms:
        folders, step_seconds, previous = [], [], None
        for index, stage in enumerate(arm.stages):
            folders.append(out / RUNS / f"timing-{index}")
            shutil.rmtree(folders[-1], ignore_errors=True)
            previous = train_stage(scaled(stage, NUM_TIMED_STEPS, 0), folders[-1], out, previous)
            step_seconds.append(median(_step_seconds(folders[-1])[1:]))
        assert previous is not None
        speeds[arm.name] = Speed(tuple(step_seconds), _scoring_seconds(ablation, arm, previous, out))
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return speeds


def _step_seconds(folder: Path) -> list[float]:
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["ms_per_step"] / 1000 for line in lines if "ms_per_step" in line]


def _scoring_seconds(ablation: Ablation, arm: Arm, result: Path, out: Path) -> float:
    """Time the scoring of a run with one prompt, and return the duration with all prompts."""
    evaluation = ablation.evaluation

    def duration(part: Evaluation) -> float:
        start = time.perf_counter()
        score_run(arm, result, out, part)
        return time.perf_counter() - start

    without_videos = replace(evaluation, videos={})
    duration(without_videos)  # encodes the clips
    seconds = duration(without_videos)
    if evaluation.videos:
        seconds += evaluation.num_prompts * duration(replace(evaluation, clips={}, num_prompts=1))
    return seconds
