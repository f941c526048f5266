"""Runs of an ablation: an arm with a seed, trained stage by stage, and scored. Each finished run has a JSON file.

A run that was interrupted, even by a kill, continues from its newest checkpoint, and ends with the same JSON. Stages
that arms share are trained once.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from cogvideox import config
from cogvideox.ablation.arm import Ablation, Arm, Evaluation, Settings, located
from cogvideox.ablation.curves import averaged, loss_variance, read_curve
from cogvideox.ablation.plan import AblationPlan
from cogvideox.ablation.scores.diffusion_scores import Scores, score_model
from cogvideox.ablation.scores.vae_scores import score_vae
from cogvideox.atomic_io import atomic_write, write_text
from cogvideox.training.config import VAETraining
from cogvideox.training.diffusion import trainer as diffusion_trainer
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.vae import trainer as vae_trainer

RESULTS, RUNS = "results", "runs"
"""Folders of finished runs (JSON) and of trainings."""
NUM_CURVE_POINTS = 200


class AblationStopped(Exception):
    """A training saved a checkpoint and stopped, because of a signal."""


@dataclass(frozen=True)
class Run:
    """An arm with a seed."""

    arm: str
    seed: int


@dataclass(frozen=True)
class RunTask:
    """The executor's task: trains and scores runs, and returns their result files."""

    ablation: Ablation
    plan: AblationPlan
    out: str

    def open(self, worker: int) -> Callable[[Sequence[Run]], list[str]]:
        """See `executor.base.BatchTask`."""
        return lambda runs: [str(finish_run(self.ablation, self.plan, run, Path(self.out))) for run in runs]


def list_runs(ablation: Ablation, plan: AblationPlan) -> list[Run]:
    """Return all runs: all arms with the first seed, then with the next."""
    return [Run(arm.name, seed) for seed in range(plan.num_seeds) for arm in ablation.arms]


def result_file(ablation: Ablation, run: Run, out: Path) -> Path:
    """Return the path of a run's JSON file."""
    return out / RESULTS / f"{ablation.arm(run.arm).slug}-{run.seed}.json"


def finish_run(ablation: Ablation, plan: AblationPlan, run: Run, out: Path) -> Path:
    """Train and score a run, unless its JSON file exists, and return the file.

    Raises:
        AblationStopped: the training was saved and stopped.
        UserError: see the trainers.
    """
    file = result_file(ablation, run, out)
    if file.is_file():
        return file
    with single_thread():
        content, scores = _finished(ablation, plan, run, out)
    with atomic_write(file.with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, frames=scores.frames)
    write_text(file, json.dumps(content) + "\n")
    return file


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one CPU thread, so that results do not depend on the number of cores or processes."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _finished(ablation: Ablation, plan: AblationPlan, run: Run, out: Path) -> tuple[dict[str, Any], Scores]:
    """Train and score a run, and return the content of its file."""
    arm = ablation.arm(run.arm)
    stages = plan.stages_of(arm, run.seed)
    result: Path | None = None
    for index, stage in enumerate(stages[:-1]):
        digest = config.digest(list(stages[: index + 1]), "AblationStage")
        result = train_stage(stage, out / RUNS / f"stage-{digest}", out, result)
    folder = out / RUNS / f"{arm.slug}-{run.seed}"
    result = train_stage(stages[-1], folder, out, result)
    scores, curve = score_run(arm, result, out, ablation.evaluation), read_curve(folder)
    variance = {"loss variance": [loss_variance([loss for _, loss in curve])]}
    return {
        "ablation": ablation.name,
        "arm": arm.name,
        "seed": run.seed,
        "steps": [stage.run.num_steps for stage in stages],
        "values": {name: list(map(_rounded, column)) for name, column in (scores.values | variance).items()},
        "curve": [[step, _rounded(loss)] for step, loss in averaged(curve, NUM_CURVE_POINTS)],
    }, scores


def train_stage(stage: Settings, folder: Path, out: Path, previous: Path | None) -> Path:
    """Train a stage in a folder, or continue it, unless it is finished.

    Processes that need the same stage wait for the one that trains it.

    Returns:
        The model folder, or the folder that contains the VAE.

    Raises:
        AblationStopped: the training was saved and stopped.
        UserError: see the trainers.
    """
    finished = folder / "finished"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        settings, result = located(stage, out, previous), folder
        if isinstance(settings, DiffusionTraining):
            result = folder / "model"
        if not finished.exists():
            train = vae_trainer.train if isinstance(settings, VAETraining) else diffusion_trainer.train
            if train(settings, folder, resume=True) is None:
                raise AblationStopped
            write_text(finished, "")
    return result


def score_run(arm: Arm, result: Path, out: Path, evaluation: Evaluation) -> Scores:
    """Score the result of an arm's training."""
    settings = arm.settings
    if isinstance(settings, VAETraining):
        return score_vae(result, evaluation)
    return score_model(result, evaluation, out / RUNS / "latents", settings.position_rule)


def _rounded(value: float) -> float | None:
    """Round to six significant digits; NaN becomes None, as JSON has no NaN."""
    return None if math.isnan(value) else float(f"{value:.6g}")
