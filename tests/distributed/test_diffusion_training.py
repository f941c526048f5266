"""Diffusion training on several ranks equals training in one process, and resumes on any number of ranks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from cogvideox.dataset.mixture import DataSource
from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder
from cogvideox.training.config import OptimSettings
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.trainer import train
from cogvideox.transformer.lora.config import LoRASettings
from cogvideox.transformer.lora.io import read_lora
from cogvideox.video.io import read_image
from tests import tiny_runs
from tests.distributed.compare import close_all
from tests.distributed.spawn import as_torchrun

CHANGES = {
    "all": {},
    "lora": {"lora": LoRASettings(rank=2)},
    "sequence": {"sequence": 2, "checkpointing": "full"},
}

SAMPLES = SampleSettings(
    ("a red ball", "a blue cube", "one small thing"),
    interval=1,
    num_inference_steps=2,
    num_frames=5,
    height=32,
    width=32,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DiffusionTraining:
    return tiny_runs.diffusion_run(tmp_path_factory.mktemp("stage"))


def weights(out: Path) -> dict[str, Tensor]:
    """Return the weights of the model or LoRA that a run exported."""
    if (out / "model").is_dir():
        return dict(model_folder.load(out / "model").transformer.state_dict())
    layers = read_lora(out / "pytorch_lora_weights.safetensors").layers
    return {f"{name}.{i}": w for name, factors in layers.items() for i, w in enumerate((factors.down, factors.up))}


def run(settings: DiffusionTraining, out: Path, stops: bool = False) -> None:
    result = train(settings, out, resume=True, max_seconds=0.0 if stops else None)
    assert (result is None) == stops


@pytest.mark.parametrize("variant", CHANGES)
def test_two_ranks_equal_one_process(settings: DiffusionTraining, variant: str, tmp_path: Path) -> None:
    """Samples, for more prompts than ranks, are also equal and do not affect training."""
    changed = replace(settings, samples=SAMPLES, **CHANGES[variant])
    as_torchrun(2, run, changed, tmp_path / "two")
    run(replace(changed, sequence=1), tmp_path / "one")
    close_all(weights(tmp_path / "two"), weights(tmp_path / "one"))
    expected_losses, losses = (_losses(tmp_path / name) for name in ("one", "two"))
    assert len(losses) == 3 and losses == pytest.approx(expected_losses, rel=1e-5)
    for step in (1, 2, 3):
        sheet = f"samples/step-{step:08d}.png"
        actual, expected = (read_image(tmp_path / name / sheet).astype(int) for name in ("two", "one"))
        assert actual.shape == expected.shape and np.abs(actual - expected).max() <= 1  # rounding


def test_single_process_optimizers_are_rejected(
    settings: DiffusionTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a single process only"):
        train(replace(settings, optim=OptimSettings(name="muon")), tmp_path)
    with pytest.raises(UserError, match=r"optim.moments=8bit supports a single process only"):
        train(replace(settings, optim=OptimSettings(moments="8bit")), tmp_path)


def _losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("variant", ["all", "lora"])
def test_a_run_resumes_on_two_then_one_then_two_ranks(
    settings: DiffusionTraining, variant: str, tmp_path: Path
) -> None:
    changed = replace(settings, **CHANGES[variant])
    run(changed, tmp_path / "uninterrupted")
    as_torchrun(2, run, changed, tmp_path / "resumed", True)
    run(changed, tmp_path / "resumed", stops=True)
    as_torchrun(2, run, changed, tmp_path / "resumed")
    close_all(weights(tmp_path / "resumed"), weights(tmp_path / "uninterrupted"))


def test_all_ranks_validate_and_one_writes_metrics(settings: DiffusionTraining, tmp_path: Path) -> None:
    changed = replace(settings, validation=settings.data[0].store)
    changed = replace(changed, run=replace(changed.run, num_steps=2, validate_interval=1))
    as_torchrun(2, run, changed, tmp_path / "two")
    lines = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert ["validation/loss" in line for line in lines] == [False, True, False, True]


def test_all_ranks_stop_while_rank_0_encodes(settings: DiffusionTraining, tmp_path: Path) -> None:
    clips = Path(settings.model).parent / "clips"
    as_torchrun(2, run, replace(settings, data=(DataSource(str(clips)),)), tmp_path, True)
    assert not (tmp_path / "checkpoints").exists()


def check_rejected(settings: DiffusionTraining, out: Path) -> None:
    with pytest.raises(UserError, match="3 processes cannot share the 2 attention heads"):
        train(settings, out)


def test_heads_are_checked_before_anything_is_encoded(settings: DiffusionTraining, tmp_path: Path) -> None:
    data = (DataSource(str(Path(settings.model).parent / "clips")),)
    as_torchrun(3, check_rejected, replace(settings, data=data, sequence=3), tmp_path)
    assert not (tmp_path / "stores").exists()
