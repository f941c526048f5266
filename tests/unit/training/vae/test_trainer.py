"""Components of VAE training; bit-exact resume is tested in `tests/laws/test_resume.py`."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_vae
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.rng import clip_indices
from cogvideox.training.vae.clip_sources import ToyboxSource
from cogvideox.training.vae.data import make_batch
from cogvideox.training.vae.trainer import train
from cogvideox.training.vae.validation import normalize_latents
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.metrics import psnr as psnr_of
from cogvideox.vae.model import CausalVAE
from tests import tiny_runs

SETTINGS = tiny_runs.vae_run()
SOURCE = ToyboxSource(SETTINGS.clips)


def state(out, step):
    """All tensors of a checkpoint, by their dotted names."""
    return load_file(Checkpoints(out).folder / f"step-{step:08d}" / "tensors.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("vae") / "run"
    return train(replace(SETTINGS, run=replace(SETTINGS.run, keep_checkpoints=8)), out)


def test_batches_are_crops_then_clips_with_images_in_between():
    """Crops in the first 3 steps; every second step single frames, 2 for each clip."""
    shapes = [tuple(make_batch(SETTINGS, SOURCE, step).pixels.shape) for step in range(6)]
    crop, crops_of_frames = (2, 3, 5, 8, 8), (4, 3, 1, 8, 8)
    clip, frames = (2, 3, 5, 16, 16), (4, 3, 1, 16, 16)
    assert shapes == [crop, crops_of_frames, crop, frames, clip, frames]


def test_a_batch_depends_on_the_step_alone_and_is_cut_from_the_clips():
    for one, same in zip(make_batch(SETTINGS, SOURCE, 1), make_batch(SETTINGS, SOURCE, 1)):
        assert torch.equal(one, same)
    whole = make_batch(SETTINGS, SOURCE, 4).pixels
    assert torch.equal(whole, render_clips(SETTINGS.clips, clip_indices(0, 4, 2, SETTINGS.clips.num_clips)))
    for crop, clip in zip(
        make_batch(SETTINGS, SOURCE, 2).pixels, render_clips(SETTINGS.clips, clip_indices(0, 2, 2, 10))
    ):
        windows = clip.unfold(2, 8, 1).unfold(3, 8, 1)  # [c t y x h w]
        assert (windows == crop[:, :, None, None]).all(dim=(0, 1, 4, 5)).any()


def test_the_frozen_encoder_has_its_ema_weights_and_the_decoder_trains_on(run):
    before = state(run, 6)
    after = state(run, 8)
    names = [name for name in after if name.startswith("vae.encoder.")]
    assert names
    for name in names:
        assert torch.equal(after[name], before[f"ema.{name}"]) and torch.equal(after[f"ema.{name}"], after[name]), name
    decoder = [name for name in after if name.startswith("vae.decoder.") and name.endswith("weight")]
    assert all(not torch.equal(after[name], before[name]) for name in decoder)


def test_the_folder_has_the_ema_weights_and_the_scaling_factor(run):
    vae, average = load_vae(run), CausalVAE(SETTINGS.model)
    saved = state(run, 8)
    average.load_state_dict({name: saved[f"ema.vae.{name}"] for name in average.state_dict()})
    video = render_clips(SETTINGS.clips, range(4))
    ours, theirs = (one.decode(one.encode(video).mean) for one in (vae, average))
    torch.testing.assert_close(ours, theirs)
    assert vae.config.scaling_factor == pytest.approx(normalize_latents(vae, SOURCE)[1], rel=1e-4)
    assert (run / "samples" / "step-00000008.png").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"validation/psnr", "validation/psnr_image"} <= lines[-1].keys()


def test_normalized_latents_have_unit_variance():
    """Every channel has unit variance, and, scaled, what varies inside a frame has the size of noise."""
    vae = CausalVAE(SETTINGS.model)
    init_weights(vae, torch.Generator().manual_seed(0))
    vae, scaling_factor = normalize_latents(vae, SOURCE)
    posterior = vae.encode(render_clips(SETTINGS.clips, range(SETTINGS.clips.num_clips)))
    latents, noise = posterior.mean, posterior.logvar.exp()
    variance = latents.var(dim=(0, 2, 3, 4)) + noise.mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(variance, torch.ones(latents.shape[1]))
    inside = (latents - latents.mean(dim=(3, 4), keepdim=True)) * scaling_factor
    assert inside.square().mean().item() == pytest.approx(1.0, rel=1e-3)


def test_reconstructions_improve(tmp_path):
    settings = replace(SETTINGS, crop_steps=0, encoder_steps=24, image_interval=0)
    run = replace(settings.run, num_steps=24, save_interval=0, validate_interval=12, log_interval=12)
    train(replace(settings, run=run), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    psnr = [line["validation/psnr"] for line in lines if "validation/psnr" in line]
    black = psnr_of(torch.full((1, 3, 1, 2, 2), -1.0), torch.zeros(1, 3, 1, 2, 2)).item()
    assert psnr[-1] > max(psnr[0], black)


def test_resuming_a_run_with_more_steps_than_requested_does_nothing(run):
    assert train(replace(SETTINGS, run=replace(SETTINGS.run, num_steps=5)), run, resume=True) == run


def test_an_unavailable_device_is_rejected_before_a_folder_is_created(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="device 'cuda' is not available"):
        train(replace(SETTINGS, run=replace(SETTINGS.run, device="cuda")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
