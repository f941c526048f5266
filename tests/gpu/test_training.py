"""Training on a GPU: steps do not synchronize, compiled bfloat16 steps learn, and resumed runs have the same losses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from cogvideox.dataset.latents.toybox_latents import encode_toybox
from cogvideox.dataset.prefetch import prefetch, to_device
from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained.components import load_vae
from cogvideox.training.config import ToyboxTraining, VAETraining
from cogvideox.training.ema import EMA
from cogvideox.training.optim import optimizers
from cogvideox.training.rng import torch_generator
from cogvideox.training.toybox import trainer as toybox_trainer
from cogvideox.training.toybox.data import ToyboxData
from cogvideox.training.vae import clip_sources, data
from cogvideox.training.vae import trainer as vae_trainer
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.losses.vae_loss import vae_loss
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior
from tests import tiny_runs

CUDA = torch.device("cuda")
ROOT = Path(__file__).parents[2]
LOOPS = ["vae", "transformer"]
NUM_STEPS = 6


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    return tiny_runs.write_vae(tmp_path_factory.mktemp("vae"))


def make_settings(loop: str, vae: Path, **run) -> VAETraining | ToyboxTraining:
    run = {"device": "cuda"} | run
    return tiny_runs.vae_run(**run) if loop == "vae" else tiny_runs.toybox_run(vae, **run)


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def train(loop: str, settings: VAETraining | ToyboxTraining, out: Path, **options) -> Path | None:
    """Train without writing sample sheets, so that the tests do not need PyAV."""
    trainer = {"vae": vae_trainer, "transformer": toybox_trainer}[loop]
    folder = {"vae": "vae", "transformer": "toybox"}[loop]
    with patch(f"cogvideox.training.{folder}.validation.write_sheet"):
        return trainer.train(settings, out, **options)


@pytest.mark.parametrize("loop", LOOPS)
def test_compiled_steps_in_bfloat16_learn(loop, vae, tmp_path):
    command, environment = [sys.executable, __file__, loop, str(vae), str(tmp_path / "run")], {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    history = losses(tmp_path / "run")
    assert sum(history[-10:]) < 0.8 * sum(history[:10])


def train_compiled(loop: str, vae: Path, out: Path) -> None:
    """Train with `torch.compile`, in a separate process without the shape checks, which cannot be compiled."""
    compiled = {"precision": "bfloat16", "compile": True, "workers": 2}
    settings = make_settings(loop, vae, num_steps=60, save_interval=0, validate_interval=0, **compiled)
    settings = replace(settings, image_interval=0)
    if isinstance(settings, VAETraining):
        settings = replace(settings, crop_steps=0, encoder_steps=60)
    else:
        settings = replace(settings, sampling=replace(settings.sampling, interval=0))
    train(loop, settings, out)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_run(loop, deterministic, vae, tmp_path):
    """Up to the rounding errors of kernels whose order of summation varies."""
    settings = make_settings(loop, vae, deterministic=deterministic)
    assert train(loop, settings, tmp_path / "uninterrupted/run") is not None
    while train(loop, settings, tmp_path / "resumed/run", resume=True, max_seconds=0.0) is None:
        pass
    uninterrupted, resumed = (losses(tmp_path / name / "run") for name in ("uninterrupted", "resumed"))
    difference = max(abs(a - b) / a for a, b in zip(uninterrupted, resumed, strict=True))
    print(f"maximum relative difference of the losses: {difference:.2g}, deterministic={deterministic}")
    assert difference <= 0.05


@pytest.mark.parametrize("loop", LOOPS)
def test_training_steps_do_not_synchronize_with_the_gpu(loop, vae, tmp_path):
    step = (vae_step if loop == "vae" else transformer_step)(make_settings(loop, vae), tmp_path)
    for _ in range(3):  # warm-up: one-time setup may synchronize; every third batch consists of images
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(NUM_STEPS - 3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def vae_step(settings: VAETraining, _: Path) -> Callable[[], None]:
    vae = CausalVAE(settings.model)
    init_weights(vae, torch_generator("weights", 0))
    vae.to(CUDA)
    optimizer, ema = optimizers.build_adamw([vae], settings.optim), EMA({"vae": vae}, 0.9)
    source, _ = clip_sources.open_sources(settings)
    batches = pinned_batches(lambda step: data.make_batch(settings, source, step))

    def step() -> None:
        batch = to_device(next(batches), CUDA)
        with torch.autocast("cuda", torch.bfloat16):
            reconstruction, mean, logvar = vae_trainer.reconstruct(vae, batch.pixels, batch.noise)
        posterior = Posterior(mean.float(), logvar.float())
        vae_loss(reconstruction.float(), batch.pixels, posterior, settings.loss)[0].backward()
        optimizers.clip_grad_norm(optimizer, settings.optim)
        optimizers.optimizer_step(optimizer, 0, NUM_STEPS, settings.optim)
        ema.update(0)

    return step


def transformer_step(settings: ToyboxTraining, cache: Path) -> Callable[[], None]:
    vae = load_vae(settings.vae)
    clips, images = (encode_toybox(vae, clips, cache) for clips in (settings.clips, settings.images))
    toybox_data, schedule = ToyboxData(settings), Schedule()
    model = toybox_trainer.build_model(settings).to(CUDA)
    optimizer, ema = optimizers.build_optimizer([model], settings.optim), EMA({"model": model}, 0.9)
    batches = pinned_batches(lambda step: toybox_data.make_batch(clips, images, step))

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            losses = toybox_trainer.velocity_losses(model, next(batches), schedule, 0.8)
        losses.mean().backward()
        optimizers.clip_grad_norm(optimizer, settings.optim)
        optimizers.optimizer_step(optimizer, 0, NUM_STEPS, settings.optim)
        ema.update(0)

    return step


def pinned_batches(make_batch: Callable[[int], tuple]):
    """Return an iterator over batches in pinned memory, all prefetched as by the workers of a run."""
    batches = prefetch(make_batch, range(NUM_STEPS))
    return iter([type(batch)(*(tensor.pin_memory() for tensor in batch)) for batch in batches])


if __name__ == "__main__":
    train_compiled(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
