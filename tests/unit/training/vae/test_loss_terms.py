"""VAE training: perceptual and GAN losses, initialization from an existing VAE, frame rates, whole clips."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.errors import UserError
from cogvideox.evaluation.reconstruction.metrics import detail, flicker
from cogvideox.pretrained.components import load_vae, save_vae
from cogvideox.training.vae.clip_sources import ToyboxSource
from cogvideox.training.vae.context_parallel import StepShard, shard_step
from cogvideox.training.vae.data import VAEBatch, make_batch
from cogvideox.training.vae.gan import DiscriminatorTrainer
from cogvideox.training.vae.trainer import build_vae, perceptual_loss, reconstruct, train
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.losses.perceptual import RandomFeatures
from cogvideox.vae.losses.vae_loss import select_frames
from cogvideox.vae.model import CausalVAE
from tests import tiny_runs

SETTINGS = tiny_runs.vae_gan_run()
CPU = torch.device("cpu")


@pytest.fixture
def vae() -> CausalVAE:
    vae = CausalVAE(SETTINGS.model)
    init_weights(vae, torch.Generator().manual_seed(0))
    return vae


def test_each_loss_term_is_logged_from_its_first_step(tmp_path, capsys):
    train(SETTINGS, tmp_path)
    assert "perceptual loss: a distance in random features; set lpips_trunk" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line.keys() for line in lines if "loss" in line}
    for step, names in steps.items():  # counted from 1
        assert {"l1", "l2", "kl", "perceptual"} <= names and "lpips" not in names
        assert ({"disc", "disc_real", "disc_fake"} <= names) == (step > 2)
        assert ({"gan", "gan_weight"} <= names) == (step > 4)
    scores = lines[-1]
    assert {"validation/detail", "validation/flicker", "validation/psnr"} <= scores.keys()


def test_the_gan_gradient_norm_at_the_last_layer_is_the_gan_weight_times_that_of_the_loss(vae):
    discriminator, layer = DiscriminatorTrainer(SETTINGS, CPU), vae.decoder.conv_out.weight
    video = render_clips(SETTINGS.clips, range(2))
    reconstruction, _, _ = reconstruct(vae, video, torch.randn(2, 4, 2, 2, 2))
    loss = (reconstruction - video).abs().mean()
    shard = shard_step(make_batch(SETTINGS, ToyboxSource(SETTINGS.clips), 4), None, whole_clips=False)
    gradient, terms = discriminator.generator_gradient(shard, reconstruction, layer, loss)
    norms = [
        torch.autograd.grad(objective, layer, retain_graph=True)[0].norm().item()
        for objective in (loss, (gradient * reconstruction).sum())
    ]
    assert norms[1] == pytest.approx(SETTINGS.loss.gan * norms[0], rel=1e-2)
    assert all(parameter.grad is None for parameter in discriminator.net.parameters())
    assert terms["gan_weight"].item() > 0


def test_the_discriminator_learns_to_detect_blur():
    optim = replace(SETTINGS.disc_optim, lr=1e-2, warmup_steps=0)
    discriminator = DiscriminatorTrainer(replace(SETTINGS, disc_optim=optim), CPU)
    video = render_clips(SETTINGS.clips, range(4))
    blurred = torch.nn.functional.avg_pool3d(video, (1, 5, 5), stride=1, padding=(0, 2, 2))
    shard = StepShard(VAEBatch(video, torch.empty(4, 4, 2, 2, 2), torch.zeros(0, 2, dtype=torch.long)), num_frames=5)
    losses = [discriminator.train_step(shard, step, blurred)["disc"].item() for step in range(2, 42)]
    assert losses[-1] < 0.6 * losses[0]


def test_random_feature_distance_is_deterministic_and_smaller_for_similar_frames():
    distance, frames = RandomFeatures(), render_clips(SETTINGS.clips, range(4))[:, :, 0]
    similar, different = frames + 0.01 * torch.randn(frames.shape), frames.roll(1, 0)
    assert distance(frames, frames).tolist() == [0.0] * 4
    assert (distance(similar, frames) < distance(different, frames)).all()
    torch.testing.assert_close(RandomFeatures()(different, frames), distance(different, frames), rtol=0, atol=0)


def test_random_feature_distance_has_a_finite_gradient_for_uniform_frames():
    uniform = torch.zeros(1, 3, 16, 16, requires_grad=True)
    RandomFeatures()(uniform, torch.ones(1, 3, 16, 16)).sum().backward()
    assert uniform.grad.isfinite().all()


def test_without_lpips_files_the_loss_uses_random_features():
    assert perceptual_loss(SETTINGS, CPU).name == "perceptual"
    assert perceptual_loss(tiny_runs.vae_run(), CPU) is None
    with pytest.raises(UserError, match=r"set both or neither"):
        replace(SETTINGS, lpips_trunk="vgg16.pth")


def test_select_frames_returns_the_frames_with_the_given_indices():
    video = torch.arange(2 * 3).view(2, 1, 3, 1, 1).float()
    assert select_frames(video, torch.tensor([[0, 2], [1, 0]])).flatten().tolist() == [2, 3]
    assert select_frames(video, None).flatten().tolist() == list(range(6))


def test_the_perceptual_loss_uses_the_configured_number_of_frames_per_clip():
    settings = [replace(SETTINGS, perceptual_frames=n) for n in (1, 3, 0)]
    single, triple, all_frames = (make_batch(s, ToyboxSource(SETTINGS.clips), 4).frames.tolist() for s in settings)
    assert [clip for clip, _ in single] == [0, 1]
    assert [clip for clip, _ in triple] == [0, 0, 0, 1, 1, 1] and len({tuple(pair) for pair in triple}) == 6
    assert sorted(all_frames) == [[clip, frame] for clip in range(2) for frame in range(5)]


def test_each_step_samples_one_of_the_frame_rates():
    """In the toybox, frame 1 at 8 fps equals frame 2 at 16 fps."""
    settings, source = replace(SETTINGS, crop_steps=0, image_interval=0), ToyboxSource(SETTINGS.clips)
    rng = np.random.default_rng(0)
    at_16_fps, at_8_fps = (source.load_clips([0, 1, 2], fps, rng) for fps in (16.0, 8.0))
    assert torch.equal(at_16_fps[:, :, 2], at_8_fps[:, :, 1]) and not torch.equal(at_16_fps, at_8_fps)
    only_8, only_16 = (replace(settings, frame_rates=(fps,)) for fps in (8.0, 16.0))
    matches = set()
    for step in range(12):
        pixels = make_batch(settings, source, step).pixels
        matches.add(tuple(torch.equal(pixels, make_batch(only, source, step).pixels) for only in (only_8, only_16)))
    assert {(True, False), (False, True)} <= matches


def test_a_run_started_from_another_vae_keeps_its_scaling_factor(vae, tmp_path):
    save_vae(vae, tmp_path / "before", scaling_factor=0.7)
    settings = replace(SETTINGS, init_from=str(tmp_path / "before"))
    initial = build_vae(settings, fresh=True)
    torch.testing.assert_close(initial.state_dict(), vae.state_dict(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in initial.parameters())
    assert all(parameter.is_contiguous() for parameter in initial.parameters())  # as in a resumed run
    single_step = replace(settings, run=replace(settings.run, num_steps=1, ema_decay=0.0), encoder_steps=0)
    after = load_vae(train(single_step, tmp_path / "after"))
    assert after.config.scaling_factor == 0.7
    torch.testing.assert_close(after.encoder.state_dict(), vae.encoder.state_dict(), rtol=0, atol=0)
    wider = replace(settings, model=replace(SETTINGS.model, block_out_channels=(4, 4, 4, 8)))
    with pytest.raises(UserError, match=r"block_out_channels=\[4, 4, 4, 4\], but model\.block_out_channels"):
        build_vae(wider, fresh=True)


def test_whole_clips_are_not_split_into_chunks(vae):
    """With `ConvCache`, the norms pool over all frames of the clip."""
    video, noise = torch.rand(1, 3, 17, 16, 16), torch.zeros(1, 4, 5, 2, 2)
    whole, chunked = reconstruct(vae, video, noise, ConvCache, ConvCache)[0], reconstruct(vae, video, noise)[0]
    mean, _ = vae.encoder(video, ConvCache()).chunk(2, dim=1)
    torch.testing.assert_close(whole, vae.decoder(mean, ConvCache()))
    assert not torch.allclose(whole, chunked, atol=1e-3)


def test_detail_measures_blur_and_flicker_measures_change_over_time():
    still = torch.rand(1, 3, 1, 8, 8).expand(1, 3, 4, 8, 8)
    assert flicker(still).item() == 0.0
    flashing = torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1).expand(1, 3, 2, 8, 8)
    assert flicker(flashing).item() == 255.0 and detail(flashing).item() == 0.0
    blurred = torch.nn.functional.avg_pool3d(still, (1, 3, 3), stride=1, padding=(0, 1, 1))
    assert detail(blurred) < 0.5 * detail(still)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"disc_warmup_steps": 5}, "disc_warmup_steps=5 must be at most disc_start=4"),
        ({"context_parallel": 2}, "set whole_clips=true"),
        ({"perceptual_frames": -1}, "perceptual_frames=-1"),
        ({"frame_rates": (8.0, 0.0)}, "frame_rates"),
        ({"lpips_trunk": "a", "lpips_heads": "b"}, "at least 16 pixels"),
        ({"run": replace(SETTINGS.run, compile=True)}, "run.compile does not support loss.gan"),
        ({"disc_optim": replace(SETTINGS.optim, name="muon")}, "disc_optim.name=muon"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(UserError) as error:
        replace(SETTINGS, **changes)
    assert message in str(error.value)
