"""AdamW with 8-bit moments from torchao, and a clear error if torchao is not installed."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cogvideox.dataset.mixture import DataSource
from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.config import OptimSettings
from cogvideox.training.diffusion.trainer import train
from cogvideox.training.optim.optimizers import build_adamw, optimizer_step
from cogvideox.training.recipes import RECIPES

EIGHT = OptimSettings(lr=1e-3, warmup_steps=0, schedule="constant", moments="8bit")
FLOAT = OptimSettings(lr=1e-3, warmup_steps=0, schedule="constant")


def build(settings: OptimSettings) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Linear(64, 64)
    return net, build_adamw([net], settings)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, settings: OptimSettings, numbers: range) -> None:
    for step in numbers:
        x = torch.randn(16, 64, generator=torch.Generator().manual_seed(step))
        (net(x) - x).square().mean().backward()
        optimizer_step(optimizer, step, 10, settings)


def test_missing_torchao_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"needs torchao.*cogvideox\[quant\]"):
        build(EIGHT)


def test_missing_torchao_is_reported_before_clips_are_encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    settings = replace(RECIPES["toybox-sft"](), optim=EIGHT, data=(DataSource(str(tmp_path)),))
    with pytest.raises(UserError, match="needs torchao"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_8bit_state_is_rejected_by_a_float32_optimizer():
    _, optimizer = build(FLOAT)
    state = optimizer.state_dict()
    state["state"] = {0: {"step": torch.tensor(1.0), "exp_avg": {"codes": torch.zeros(64, 64, dtype=torch.uint8)}}}
    with pytest.raises(ValueError, match=r"resume with optim\.moments=8bit"):
        optimizer.load_state_dict(state)


@pytest.mark.slow  # compiles the optimizer
def test_8bit_moments_train_like_float32_need_a_quarter_of_the_memory_and_resume_bit_exactly(tmp_path: Path):
    pytest.importorskip("torchao")
    exact_net, exact_optimizer = build(FLOAT)
    steps(exact_net, exact_optimizer, FLOAT, range(4))
    net, optimizer = build(EIGHT)
    start = net.weight.detach().clone()
    steps(net, optimizer, EIGHT, range(2))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, {"model": net, "optimizer": optimizer})
    steps(net, optimizer, EIGHT, range(2, 4))
    change, error = (exact_net.weight - start).norm(), (net.weight - exact_net.weight).norm()
    assert error < 0.1 * change
    size = (tmp_path / "checkpoints/step-00000002/tensors.safetensors").stat().st_size
    assert size < 64 * 64 * (4 + 2 * 1.1) + 6000

    resumed_net, resumed_optimizer = build(EIGHT)
    assert checkpoints.load({"model": resumed_net, "optimizer": resumed_optimizer}) == 2
    steps(resumed_net, resumed_optimizer, EIGHT, range(2, 4))
    assert torch.equal(resumed_net.weight, net.weight)
    for target, source in ((build(FLOAT)[1], optimizer), (build(EIGHT)[1], exact_optimizer)):
        with pytest.raises(ValueError, match=r"resume with optim\.moments="):
            target.load_state_dict(source.state_dict())
