"""Run management: lock, resuming, intervals, and early stops."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.fault_tolerance.preemption import TrainingStopped
from cogvideox.training.run import training_run
from tests import tiny_runs

SETTINGS = tiny_runs.vae_run(num_steps=5, save_interval=2)


def test_the_folder_is_locked_for_the_duration_of_the_run(tmp_path):
    with (
        training_run(SETTINGS, tmp_path / "run"),
        pytest.raises(UserError, match="in use by process"),
        training_run(SETTINGS, tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()  # nothing was written


def test_a_run_resumes_after_its_checkpoint(tmp_path):
    net, samples = nn.Linear(2, 2), []
    for num_steps in (3, 5):
        settings = replace(SETTINGS, run=replace(SETTINGS.run, num_steps=num_steps))
        with training_run(settings, tmp_path, resume=True) as run:
            run.restore({"net": net}, lambda done: samples.append(done) or 10 * done)
            assert run.tracker.samples == 10 * run.start
            steps = []
            for step, batch in run.steps(run.prefetch(lambda step: step * step)):
                assert batch == step * step and run.done == step + 1
                steps.append(step)
                run.save()
    assert steps == [3, 4] and samples == [0, 3]
    assert Checkpoints(tmp_path).latest() == 5


def test_actions_are_due_at_intervals_and_after_the_last_step(tmp_path):
    with training_run(SETTINGS, tmp_path) as run:
        run.restore({"net": nn.Linear(2, 2)}, lambda done: 0)
        due = [[run.due(2), run.due(0), run.due(2, at_end=False)] for _ in run.steps(run.prefetch(torch.tensor))]
    assert due == [[False] * 3, [True, False, True], [False] * 3, [True, False, True], [True, True, False]]


def test_an_early_stop_saves_a_checkpoint_and_is_reported(tmp_path, capsys):
    with training_run(SETTINGS, tmp_path, max_seconds=0.0) as run:
        run.restore({"net": nn.Linear(2, 2)}, lambda done: 0)
        for _ in run.steps(run.prefetch(torch.tensor)):
            run.save()
    assert run.done == Checkpoints(tmp_path).latest() == 1
    assert "stopped after step 1 of 5: the time limit of 0 s is reached" in capsys.readouterr().err
    with training_run(SETTINGS, tmp_path / "other"):
        raise TrainingStopped("SIGTERM")
    assert "stopped before the first step: SIGTERM" in capsys.readouterr().err
