"""Products in bfloat16 and compiled steps: other arithmetic, the same training.

What they are for needs a GPU (`tests/gpu`), what they compute does not.
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
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.weights import init_weights as vae_init
from tests import tiny_runs

Make = Callable[..., VAETraining | ToyboxTraining]


@pytest.fixture(params=["toybox-vae", "toybox"])
def recipe(request) -> str:
    return request.param


@pytest.fixture
def make(recipe, tmp_path) -> Make:
    """Settings of a run of 4 steps that does nothing else. They are small ones: large ones would carry the first
    rounding on into losses of their own."""
    quiet = {"num_steps": 4, "save_interval": 0, "validate_interval": 0}  # too few for samples
    vae = tiny_runs.write_vae(tmp_path / "vae")

    def make(**run) -> VAETraining | ToyboxTraining:
        if recipe == "toybox":
            settings = tiny_runs.toybox_run(vae, **quiet, **run)
        else:
            settings = replace(tiny_runs.vae_run(**quiet, **run), crop_steps=0)
        return replace(settings, optim=replace(settings.optim, lr=1e-3))

    return make


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_products_in_bfloat16(recipe, make, tmp_path):
    """The losses are nearly those of float32; weights, averages and the optimizer's state are in float32."""
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
def test_compiled_steps():
    """Each step is one graph without a break, with the same results and gradients.

    In a process of its own, because the compiler cannot look into the shape checks that pytest adds here; and without
    the last backend, which writes the kernels and is the compiler's own affair.
    """
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, __file__], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def compare() -> None:
    draws = torch.Generator().manual_seed(0)
    vae, model = CausalVAE(tiny_runs.VAE), toybox_trainer.build_model(tiny_runs.toybox_run(Path()))
    vae_init(vae, draws)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=draws)
            )  # away from gates that are shut at first
    noisy, text, timestep = torch.randn(2, 4, 2, 2, 2), torch.randn(2, 24, 16), torch.tensor([7, 900])
    pixels, noise = torch.rand(2, 3, 5, 16, 16) * 2 - 1, torch.randn(2, 4, 2, 2, 2)
    same(vae, vae_trainer.reconstruct, (vae, pixels, noise))
    same(vae, vae_trainer.reconstruct, (vae, pixels[:, :, :1], noise[:, :, :1]))
    vae.encoder.requires_grad_(False)
    same(vae, vae_trainer.reconstruct, (vae, pixels, noise))
    same(model.transformer, model.transformer, (noisy, text, timestep))


def same(network: nn.Module, function: Callable, given: tuple) -> None:
    """The function, compiled and not, gives the same tensors and the same gradients of the network's parameters."""
    results = []
    for run in (function, torch.compile(function, dynamic=False, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        made = run(*given)
        made = made if isinstance(made, tuple) else (made,)
        sum(part.square().sum() for part in made).backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        results.append([*(part.detach() for part in made), *gradients])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4 * eager.abs().max().item())


if __name__ == "__main__":
    compare()
