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

from cogvideox.bundle.layout import describe
from cogvideox.training import transformer_loop, vae_loop
from cogvideox.training.settings import TransformerTraining, VAETraining
from tests import tiny_runs

Make = Callable[..., VAETraining | TransformerTraining]


@pytest.fixture(params=["toybox-vae", "toybox"])
def recipe(request) -> str:
    return request.param


@pytest.fixture
def make(recipe, tmp_path) -> Make:
    """Settings of a run of 4 steps that does nothing else. They are small ones: large ones would carry the first
    rounding on into losses of their own."""
    quiet = {"num_steps": 4, "save_interval": 0, "validate_interval": 0, "sample_interval": 0}
    vae = tiny_runs.write_vae(tmp_path / "vae")

    def make(**run) -> VAETraining | TransformerTraining:
        if recipe == "toybox":
            settings = tiny_runs.transformer_run(vae, **quiet, **run)
        else:
            settings = replace(tiny_runs.vae_run(**quiet, **run), crop_steps=0)
        return replace(settings, optim=replace(settings.optim, lr=1e-3))

    return make


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_products_in_bfloat16(recipe, make, tmp_path):
    """The losses are nearly those of float32; weights, averages and the optimizer's state are in float32."""
    train = {"toybox-vae": vae_loop.train, "toybox": transformer_loop.train}[recipe]
    for precision in ("float32", "bfloat16"):
        train(make(precision=precision), tmp_path / precision / "run")
    full, half = (losses(tmp_path / precision / "run") for precision in ("float32", "bfloat16"))
    assert half == pytest.approx(full, rel=0.03) and half != full
    state = load_file(tmp_path / "bfloat16/run/checkpoints/step-00000004/tensors.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    if recipe == "toybox":
        assert describe(tmp_path / "bfloat16/run/model").settings.dtype == "bfloat16"


@pytest.mark.slow
def test_compiled_steps(recipe, make, tmp_path):
    """In processes of their own, because the compiler cannot look into the shape checks that pytest adds here."""
    for compiled in ("false", "true"):
        command = [sys.executable, "-m", "cogvideox", "train", recipe, "--out", str(tmp_path / compiled / "run")]
        changes = [*tiny_runs.overrides(recipe, make()), f"run.compile={compiled}"]
        done = subprocess.run([*command, *changes], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    eager, compiled = (losses(tmp_path / name / "run") for name in ("false", "true"))
    assert compiled == pytest.approx(eager, rel=1e-3)
