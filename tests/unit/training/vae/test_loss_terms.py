"""What a VAE run adds to pixels and KL: looks, a discriminator, another VAE to start from, frame rates, whole clips."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_vae, save_vae
from cogvideox.training.vae.clip_sources import Toybox
from cogvideox.training.vae.context_parallel import Part, part_of
from cogvideox.training.vae.data import Batch, draw
from cogvideox.training.vae.gan import Adversary
from cogvideox.training.vae.trainer import begin, perceptual_loss, reconstruct, train
from cogvideox.vae.conv_cache import ConvCache
from cogvideox.vae.losses.perceptual import RandomFeatures
from cogvideox.vae.losses.vae_loss import select_frames
from cogvideox.vae.metrics import detail, flicker
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.weights import init_weights
from tests import tiny_runs

SETTINGS = tiny_runs.vae_gan_run()
CPU = torch.device("cpu")


@pytest.fixture
def vae() -> CausalVAE:
    vae = CausalVAE(SETTINGS.model)
    init_weights(vae, torch.Generator().manual_seed(0))
    return vae


def test_terms_are_logged_from_the_step_on_that_they_count(tmp_path, capsys):
    train(SETTINGS, tmp_path)
    assert "the perceptual term is a distance in random features: LPIPS takes lpips_trunk" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line.keys() for line in lines if "loss" in line}
    for step, names in steps.items():  # counted from 1
        assert {"l1", "l2", "kl", "perceptual"} <= names and "lpips" not in names
        assert ({"disc", "disc_real", "disc_fake"} <= names) == (step > 2)
        assert ({"gan", "gan_weight"} <= names) == (step > 4)
    scores = lines[-1]
    assert {"validation/detail", "validation/flicker", "validation/psnr"} <= scores.keys()


def test_the_pull_is_as_strong_as_the_rest_at_the_last_layer(vae):
    """What is added to the loss has at the last layer the gradient that the loss has, times its weight."""
    adversary, layer = Adversary(SETTINGS, CPU), vae.decoder.conv_out.weight
    video = render_clips(SETTINGS.clips, range(2))
    reconstruction, _, _ = reconstruct(vae, video, torch.randn(2, 4, 2, 2, 2))
    loss = (reconstruction - video).abs().mean()
    part = part_of(draw(SETTINGS, Toybox(SETTINGS.clips), 4), None, whole_clips=False)
    pull, terms = adversary.pull(part, reconstruction, layer, loss)
    norms = [
        torch.autograd.grad(objective, layer, retain_graph=True)[0].norm().item()
        for objective in (loss, (pull * reconstruction).sum())
    ]
    assert norms[1] == pytest.approx(SETTINGS.loss.gan * norms[0], rel=1e-2)
    assert all(parameter.grad is None for parameter in adversary.net.parameters())
    assert terms["gan_weight"].item() > 0


def test_the_discriminator_learns(vae):
    adversary = Adversary(replace(SETTINGS, disc_optim=replace(SETTINGS.disc_optim, lr=1e-2, warmup_steps=0)), CPU)
    video = render_clips(SETTINGS.clips, range(4))
    blurred = torch.nn.functional.avg_pool3d(video, (1, 5, 5), stride=1, padding=(0, 2, 2))
    part = Part(Batch(video, torch.empty(4, 4, 2, 2, 2), torch.zeros(0, 2, dtype=torch.long)), num_frames=5)
    losses = [adversary.learn(part, step, blurred)["disc"].item() for step in range(2, 42)]
    assert losses[-1] < 0.6 * losses[0]


def test_random_features_are_always_the_same_and_prefer_what_is_alike():
    features, video = RandomFeatures(), render_clips(SETTINGS.clips, range(4))[:, :, 0]
    near, far = video + 0.01 * torch.randn(video.shape), video.roll(1, 0)
    assert features(video, video).tolist() == [0.0] * 4
    assert (features(near, video) < features(far, video)).all()
    torch.testing.assert_close(RandomFeatures()(far, video), features(far, video), rtol=0, atol=0)
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    features(flat, torch.ones(1, 3, 16, 16)).sum().backward()
    assert flat.grad.isfinite().all()


def test_without_files_it_is_not_lpips():
    assert perceptual_loss(SETTINGS, CPU).name == "perceptual"
    assert perceptual_loss(tiny_runs.vae_run(), CPU) is None
    with pytest.raises(UserError, match=r"give both or none"):
        replace(SETTINGS, lpips_trunk="vgg16.pth")


def test_chosen_frames():
    video = torch.arange(2 * 3).view(2, 1, 3, 1, 1).float()
    assert select_frames(video, torch.tensor([[0, 2], [1, 0]])).flatten().tolist() == [2, 3]
    assert select_frames(video, None).flatten().tolist() == list(range(6))
    settings = [replace(SETTINGS, perceptual_frames=n) for n in (1, 3, 0)]
    chosen = [draw(one, Toybox(SETTINGS.clips), 4).frames.tolist() for one in settings]
    assert [len(one) for one in chosen] == [2, 6, 10]
    assert [clip for clip, _ in chosen[1]] == [0, 0, 0, 1, 1, 1] and len({tuple(pair) for pair in chosen[1]}) == 6
    assert sorted(chosen[2]) == [[clip, frame] for clip in range(2) for frame in range(5)]


def test_frame_rates_are_drawn_for_each_step():
    """The same toys, slower or faster: the second frame at 8 frames a second is the third at 16."""
    settings, source = replace(SETTINGS, crop_steps=0, image_interval=0), Toybox(SETTINGS.clips)
    rng = np.random.default_rng(0)
    slow, fast = (source.clips([0, 1, 2], rate, rng) for rate in (16.0, 8.0))
    assert torch.equal(slow[:, :, 2], fast[:, :, 1]) and not torch.equal(slow, fast)
    seen = set()
    for step in range(12):
        pixels = draw(settings, source, step).pixels
        frozen = replace(settings, frame_rates=(8.0,)), replace(settings, frame_rates=(16.0,))
        seen.add(tuple(torch.equal(pixels, draw(one, source, step).pixels) for one in frozen))
    assert {(True, False), (False, True)} <= seen


def test_a_run_goes_on_from_another_vae_and_keeps_its_scale(vae, tmp_path):
    save_vae(vae, tmp_path / "before", scaling_factor=0.7)
    settings = replace(SETTINGS, start=str(tmp_path / "before"))
    begun = begin(settings, fresh=True)
    torch.testing.assert_close(begun.state_dict(), vae.state_dict(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in begun.parameters())
    tiny = replace(settings, run=replace(settings.run, num_steps=1, ema_decay=0.0), encoder_steps=0)
    after = load_vae(train(tiny, tmp_path / "after"))
    assert after.config.scaling_factor == 0.7
    torch.testing.assert_close(after.encoder.state_dict(), vae.encoder.state_dict(), rtol=0, atol=0)
    wider = replace(settings, model=replace(SETTINGS.model, block_out_channels=(4, 4, 4, 8)))
    with pytest.raises(UserError, match=r"block_out_channels=\[4, 4, 4, 4\], and the run has"):
        begin(wider, fresh=True)


def test_whole_clips_go_in_one_piece(vae):
    """Under the past that is given: here that of a clip in one piece, whose norms see all of its frames."""
    video, noise = torch.rand(1, 3, 17, 16, 16), torch.zeros(1, 4, 5, 2, 2)
    whole, chunked = reconstruct(vae, video, noise, ConvCache, ConvCache)[0], reconstruct(vae, video, noise)[0]
    mean, _ = vae.encoder(video, ConvCache()).chunk(2, dim=1)
    torch.testing.assert_close(whole, vae.decoder(mean, ConvCache()))
    assert not torch.allclose(whole, chunked, atol=1e-3)


def test_detail_and_flicker():
    still = torch.rand(1, 3, 1, 8, 8).expand(1, 3, 4, 8, 8)
    assert flicker(still).item() == 0.0
    blinking = torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1).expand(1, 3, 2, 8, 8)
    assert flicker(blinking).item() == 255.0 and detail(blinking).item() == 0.0
    blurred = torch.nn.functional.avg_pool3d(still, (1, 3, 3), stride=1, padding=(0, 1, 1))
    assert detail(blurred) < 0.5 * detail(still)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"disc_lead": 5}, "disc_lead=5 begins before the run"),
        ({"context_parallel": 2}, "it needs whole_clips=true"),
        ({"perceptual_frames": -1}, "perceptual_frames=-1"),
        ({"frame_rates": (8.0, 0.0)}, "frame_rates"),
        ({"lpips_trunk": "a", "lpips_heads": "b"}, "16 are the least"),
        ({"run": replace(SETTINGS.run, compile=True)}, "run.compile with loss.gan"),
        ({"disc_optim": replace(SETTINGS.optim, name="muon")}, "disc_optim.name=muon"),
    ],
)
def test_refusals(changes, says):
    with pytest.raises(UserError) as error:
        replace(SETTINGS, **changes)
    assert says in str(error.value)
