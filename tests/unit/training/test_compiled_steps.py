"""Mixed precision and compiled steps give nearly the same training as float32 without compilation.

Their speed is tested on a GPU (`tests/gpu`).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cogvideox.pretrained.model_spec import read_spec
from cogvideox.training.config import ToyboxTraining, VAETraining
from cogvideox.training.toybox import trainer as toybox_trainer
from cogvideox.training.vae import trainer as vae_trainer
from cogvideox.vae.init_weights import init_weights as vae_init
from cogvideox.vae.model import CausalVAE
from tests import tiny_runs

Make = Callable[..., VAETraining | ToyboxTraining]


@pytest.fixture(params=["toybox-vae", "toybox"])
def recipe(request) -> str:
    return request.param


@pytest.fixture
def make(recipe, tmp_path) -> Make:
    """Settings of a run of 4 steps without samples and validation. The learning rate is low, so that rounding errors do
    not grow."""
    fixed = {"num_steps": 4, "save_interval": 0, "validate_interval": 0}  # too few steps for samples
    vae = tiny_runs.write_vae(tmp_path / "vae")

    def make(**run) -> VAETraining | ToyboxTraining:
        if recipe == "toybox":
            settings = tiny_runs.toybox_run(vae, **fixed, **run)
        else:
            settings = replace(tiny_runs.vae_run(**fixed, **run), crop_steps=0)
        return replace(settings, optim=replace(settings.optim, lr=1e-3))

    return make


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_mixed_precision_losses_are_close_to_float32(recipe, make, tmp_path):
    """The losses are close to those in float32; weights, EMA and optimizer state stay in float32."""
    train = {"toybox-vae": vae_trainer.train, "toybox": toybox_trainer.train}[recipe]
    for precision in ("float32", "bfloat16"):
        train(make(precision=precision), tmp_path / precision / "run")
    full, half = (losses(tmp_path / precision / "run") for precision in ("float32", "bfloat16"))
    assert half == pytest.approx(full, rel=0.03) and half != full
    state = load_file(tmp_path / "bfloat16/run/checkpoints/step-00000004/tensors.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    if recipe == "toybox":
        assert read_spec(tmp_path / "bfloat16/run/model").settings.dtype == "bfloat16"


@pytest.mark.slow
def test_compiled_steps_equal_eager_steps():
    """A step compiles to one graph without breaks, with the same results and gradients.

    In a separate process, because the compiler cannot trace the shape checks that are active in pytest; and with the
    backend `aot_eager`, which generates no kernels.
    """
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, __file__], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def compare() -> None:
    generator = torch.Generator().manual_seed(0)
    vae, model = CausalVAE(tiny_runs.VAE), toybox_trainer.build_model(tiny_runs.toybox_run(Path()))
    vae_init(vae, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))  # the gates are initialized to zero
    noisy, text, timestep = torch.randn(2, 4, 2, 2, 2), torch.randn(2, 24, 16), torch.tensor([7, 900])
    pixels, noise = torch.rand(2, 3, 5, 16, 16) * 2 - 1, torch.randn(2, 4, 2, 2, 2)
    check_compiled(vae, vae_trainer.reconstruct, (vae, pixels, noise))
    check_compiled(vae, vae_trainer.reconstruct, (vae, pixels[:, :, :1], noise[:, :, :1]))
    vae.encoder.requires_grad_(False)
    check_compiled(vae, vae_trainer.reconstruct, (vae, pixels, noise))
    check_compiled(model.transformer, model.transformer, (noisy, text, timestep))


def check_compiled(network: nn.Module, function: Callable, args: tuple) -> None:
    """Check that the compiled function returns the same tensors and gradients of the network's parameters."""
    results = []
    for run in (function, torch.compile(function, dynamic=False, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        outputs = run(*args)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(output.square().sum() for output in outputs).backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        results.append([*(output.detach() for output in outputs), *gradients])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4 * eager.abs().max().item())


if __name__ == "__main__":
    compare()
