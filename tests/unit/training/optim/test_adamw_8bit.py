"""Moments of 8 bits: by torchao where it is installed, and a sentence where it is not."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cogvideox.dataset.mixture import Source
from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.config import OptimSettings
from cogvideox.training.diffusion.trainer import train
from cogvideox.training.optim.optimizers import adamw, move
from cogvideox.training.recipes import RECIPES

EIGHT = OptimSettings(lr=1e-3, warmup_steps=0, schedule="constant", moments="8bit")
FLOAT = OptimSettings(lr=1e-3, warmup_steps=0, schedule="constant")


def begin(settings: OptimSettings) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Linear(64, 64)
    return net, adamw([net], settings)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, settings: OptimSettings, numbers: range) -> None:
    for step in numbers:
        x = torch.randn(16, 64, generator=torch.Generator().manual_seed(step))
        (net(x) - x).square().mean().backward()
        move(optimizer, step, 10, settings)


def test_without_torchao(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"takes torchao.*cogvideox\[quant\]"):
        begin(EIGHT)


def test_without_torchao_a_stage_encodes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    settings = replace(RECIPES["toybox-sft"](), optim=EIGHT, data=(Source(str(tmp_path)),))
    with pytest.raises(UserError, match="takes torchao"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_state_of_8_bits_is_refused_where_moments_are_float32():
    _, optimizer = begin(FLOAT)
    state = optimizer.state_dict()
    state["state"] = {0: {"step": torch.tensor(1.0), "exp_avg": {"codes": torch.zeros(64, 64, dtype=torch.uint8)}}}
    with pytest.raises(ValueError, match=r"resume with optim\.moments=8bit"):
        optimizer.load_state_dict(state)


def test_8_bits(tmp_path: Path):
    """Near to float32 in what is learned, a quarter of it in memory, and resumed to the bit."""
    pytest.importorskip("torchao")
    exact, exactly = begin(FLOAT)
    steps(exact, exactly, FLOAT, range(4))
    net, optimizer = begin(EIGHT)
    start = net.weight.detach().clone()
    steps(net, optimizer, EIGHT, range(2))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, {"model": net, "optimizer": optimizer})
    steps(net, optimizer, EIGHT, range(2, 4))
    moved, off = (exact.weight - start).norm(), (net.weight - exact.weight).norm()
    assert off < 0.1 * moved
    size = (tmp_path / "checkpoints/step-00000002/tensors.safetensors").stat().st_size
    assert size < 64 * 64 * (4 + 2 * 1.1) + 6000

    again, resumed = begin(EIGHT)
    assert checkpoints.load({"model": again, "optimizer": resumed}) == 2
    steps(again, resumed, EIGHT, range(2, 4))
    assert torch.equal(again.weight, net.weight)
    for ours, theirs in ((begin(FLOAT)[1], optimizer), (begin(EIGHT)[1], exactly)):
        with pytest.raises(ValueError, match=r"resume with optim\.moments="):
            ours.load_state_dict(theirs.state_dict())
