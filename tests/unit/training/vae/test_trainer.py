"""Batches, EMA, normalization and quality of VAE training. `tests/laws/test_resume.py` tests bit-exact resume."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.errors import UserError
from cogvideox.evaluation.reconstruction.metrics import psnr
from cogvideox.pretrained.components import load_vae
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.rng import clip_indices
from cogvideox.training.vae.clip_sources import ToyboxSource
from cogvideox.training.vae.data import make_batch
from cogvideox.training.vae.trainer import train
from cogvideox.training.vae.validation import normalize_latents
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.model import CausalVAE
from tests import tiny_runs

SETTINGS = tiny_runs.vae_run()
SOURCE = ToyboxSource(SETTINGS.clips)


def checkpoint_tensors(out, step):
    return load_file(Checkpoints(out).folder / f"step-{step:08d}" / "tensors.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("vae") / "run"
    return train(replace(SETTINGS, run=replace(SETTINGS.run, keep_checkpoints=8)), out)


def test_batches_are_crops_then_whole_clips_with_images_every_second_step():
    """The first 3 steps are cropped; steps of images have 2 images for each clip."""
    shapes = [tuple(make_batch(SETTINGS, SOURCE, step).pixels.shape) for step in range(6)]
    cropped_clips, cropped_images = (2, 3, 5, 8, 8), (4, 3, 1, 8, 8)
    clips, images = (2, 3, 5, 16, 16), (4, 3, 1, 16, 16)
    assert shapes == [cropped_clips, cropped_images, cropped_clips, images, clips, images]


def test_a_batch_is_determined_by_the_step():
    for first, second in zip(make_batch(SETTINGS, SOURCE, 1), make_batch(SETTINGS, SOURCE, 1)):
        assert torch.equal(first, second)


def test_batches_are_clips_and_crops_of_the_source():
    clips = make_batch(SETTINGS, SOURCE, 4).pixels
    assert torch.equal(clips, render_clips(SETTINGS.clips, clip_indices(0, 4, 2, SETTINGS.clips.num_clips)))
    for crop, clip in zip(
        make_batch(SETTINGS, SOURCE, 2).pixels, render_clips(SETTINGS.clips, clip_indices(0, 2, 2, 10))
    ):
        windows = clip.unfold(2, 8, 1).unfold(3, 8, 1)  # [c t y x h w]
        assert (windows == crop[:, :, None, None]).all(dim=(0, 1, 4, 5)).any()


def test_the_frozen_encoder_has_its_ema_weights_while_the_decoder_is_trained(run):
    before = checkpoint_tensors(run, 6)
    after = checkpoint_tensors(run, 8)
    names = [name for name in after if name.startswith("vae.encoder.")]
    assert names
    for name in names:
        assert torch.equal(after[name], before[f"ema.{name}"]) and torch.equal(after[f"ema.{name}"], after[name]), name
    decoder = [name for name in after if name.startswith("vae.decoder.") and name.endswith("weight")]
    assert all(not torch.equal(after[name], before[name]) for name in decoder)


def test_the_saved_vae_has_the_ema_weights_and_the_scaling_factor(run):
    saved, ema = load_vae(run), CausalVAE(SETTINGS.model)
    tensors = checkpoint_tensors(run, 8)
    ema.load_state_dict({name: tensors[f"ema.vae.{name}"] for name in ema.state_dict()})
    video = render_clips(SETTINGS.clips, range(4))
    torch.testing.assert_close(saved.decode(saved.encode(video).mean), ema.decode(ema.encode(video).mean))
    assert saved.config.scaling_factor == pytest.approx(normalize_latents(saved, SOURCE)[1], rel=1e-4)


def test_a_run_writes_samples_and_validation_scores(run):
    assert (run / "samples" / "step-00000008.png").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"validation/psnr", "validation/psnr_image", "validation/ssim"} <= lines[-1].keys()


def test_normalized_latents_have_unit_variance():
    """Every channel has unit variance. Multiplied by the scaling factor, the variance within frames is 1."""
    vae = CausalVAE(SETTINGS.model)
    init_weights(vae, torch.Generator().manual_seed(0))
    vae, scaling_factor = normalize_latents(vae, SOURCE)
    posterior = vae.encode(render_clips(SETTINGS.clips, range(SETTINGS.clips.num_clips)))
    latents, noise_variance = posterior.mean, posterior.logvar.exp()
    variance = latents.var(dim=(0, 2, 3, 4)) + noise_variance.mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(variance, torch.ones(latents.shape[1]))
    deviations = (latents - latents.mean(dim=(3, 4), keepdim=True)) * scaling_factor
    assert deviations.square().mean().item() == pytest.approx(1.0, rel=1e-3)


def test_training_improves_reconstructions(tmp_path):
    settings = replace(SETTINGS, crop_steps=0, encoder_steps=24, image_interval=0)
    run = replace(settings.run, num_steps=24, save_interval=0, validate_interval=12, log_interval=12)
    train(replace(settings, run=run), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [line["validation/psnr"] for line in lines if "validation/psnr" in line]
    black = psnr(torch.full((1, 3, 1, 2, 2), -1.0), torch.zeros(1, 3, 1, 2, 2)).item()
    assert scores[-1] > max(scores[0], black)


def test_resuming_a_finished_run_does_nothing(run):
    assert train(replace(SETTINGS, run=replace(SETTINGS.run, num_steps=5)), run, resume=True) == run


def test_an_unavailable_device_is_rejected_before_a_folder_is_created(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(UserError, match="device 'cuda' is not available"):
        train(replace(SETTINGS, run=replace(SETTINGS.run, device="cuda")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
