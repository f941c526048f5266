"""Image-to-video training from a text-to-video model on two ranks equals training in one process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideox.dataset.mixture import DataSource
from cogvideox.pretrained import model_folder
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.trainer import train
from tests import tiny_runs
from tests.distributed.compare import close_all
from tests.distributed.spawn import as_torchrun


def run(settings: DiffusionTraining, out: Path) -> None:
    assert train(settings, out) is not None


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    text = tiny_runs.diffusion_run(tmp_path)
    settings = replace(text, data=(DataSource(str(tmp_path / "clips")),), add_image=True, image_dropout=0.3)
    as_torchrun(2, run, settings, tmp_path / "two")
    run(settings, tmp_path / "one")
    single, parallel = (model_folder.load(tmp_path / name / "model").transformer for name in ("one", "two"))
    assert single.config.is_image_to_video and single.patch_in.weight[:, 16:].abs().max() > 0
    close_all(dict(parallel.state_dict()), dict(single.state_dict()))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-5)
