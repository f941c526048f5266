"""Steps with a non-finite loss or gradient are skipped and logged; many in a row end the run."""

import json
from dataclasses import replace

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.fault_tolerance.nonfinite_guard import NonFiniteGuard
from cogvideox.training.metrics.tracker import Tracker
from cogvideox.training.vae import trainer
from tests import tiny_runs

NAN, ONE = torch.tensor(float("nan")), torch.tensor(1.0)


def test_single_steps_are_skipped_and_many_in_a_row_raise(tmp_path, capsys):
    guard = NonFiniteGuard(Tracker(tmp_path, num_steps=9), Checkpoints(tmp_path), limit=2)
    may_step = [guard.check(step, loss=NAN if step % 3 else ONE, norm=ONE) for step in range(1, 8)]
    assert may_step == [False, False, True, False, False, True, False]
    lines = [json.loads(line) for line in guard.tracker.path.read_text().splitlines()]
    assert lines == [{"step": step, "skipped": 1.0} for step in (1, 2, 4, 5, 7)]
    assert "step 1 is skipped: loss is nan" in capsys.readouterr().err
    assert not guard.check(8, loss=ONE, norm=NAN)
    with pytest.raises(UserError, match=r"norm is inf at step 9; 3 steps in a row .* start again"):
        guard.check(9, loss=ONE, norm=ONE / 0)


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path):
    """With this learning rate the weights are unusable after one step."""
    good = replace(tiny_runs.vae_run(num_steps=2, max_skipped=1, validate_interval=0), image_interval=0)
    assert trainer.train(good, tmp_path) is not None
    diverging = replace(good, optim=replace(good.optim, lr=1e30), run=replace(good.run, num_steps=9, save_interval=0))
    with pytest.raises(UserError, match=r"the last good checkpoint is .*step-00000002, resume with a lower optim\.lr"):
        trainer.train(diverging, tmp_path, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "skipped" in line] == [4, 5]
    assert Checkpoints(tmp_path).latest() == 2
