"""The VAE equals diffusers' AutoencoderKLCogVideoX with the same random weights, in float32."""

import pytest
import torch

from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.vae.checkpoint_keys import DIFFUSERS_KEYMAP
from cogvideox.vae.config import PRESETS, VAEConfig
from cogvideox.vae.inference.tiled import Tiling
from cogvideox.vae.model import CausalVAE

pytest.importorskip("diffusers")

from diffusers import AutoencoderKLCogVideoX

SMALL = VAEConfig(
    block_out_channels=(8, 16, 16, 32),
    norm_num_groups=4,
    layers_per_block=1,
    latent_channels=4,
    sample_height=96,
    sample_width=160,
)


@pytest.fixture(scope="module")
def pair() -> tuple[CausalVAE, AutoencoderKLCogVideoX]:
    torch.manual_seed(0)
    theirs = AutoencoderKLCogVideoX.from_config(SMALL.to_diffusers()).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            std = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn_like(parameter) * std)
            if name.endswith("norm_layer.weight") or "conv_y.conv.bias" in name:
                parameter.add_(1.0)
    ours = CausalVAE(SMALL).eval()
    ours.load_state_dict(to_internal(theirs.state_dict(), DIFFUSERS_KEYMAP))
    return ours, theirs


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("num_frames", [1, 5, 9, 13, 17, 21, 25])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@torch.no_grad()
def test_posteriors_are_equal(pair, num_frames, size):
    ours, theirs = pair
    video = torch.rand(2, 3, num_frames, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior, expected = ours.encode(video), theirs.encode(video).latent_dist
    assert relative_error(posterior.mean, expected.mean) <= 1e-5
    assert relative_error(posterior.logvar, expected.logvar) <= 1e-5
    sample = posterior.sample(torch.Generator().manual_seed(2))
    assert relative_error(sample, expected.sample(torch.Generator().manual_seed(2))) <= 1e-5
    # diffusers does not sum over the width
    assert relative_error(posterior.kl(), expected.kl().sum(1)) <= 1e-5


@pytest.mark.parametrize("num_latents", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@torch.no_grad()
def test_decoded_videos_are_equal(pair, num_latents, size):
    ours, theirs = pair
    latents = torch.randn(2, 4, num_latents, *size, generator=torch.Generator().manual_seed(3))
    assert relative_error(ours.decode(latents), theirs.decode(latents).sample) <= 1e-5


@pytest.mark.parametrize("num_latents", [1, 3, 5])
@torch.no_grad()
def test_tiling_is_equal(pair, num_latents):
    """With tiles of the official proportions: half of the sample size, overlaps of 1/6 and 1/5."""
    ours, theirs = pair
    tiling = Tiling(SMALL.sample_height // 2, SMALL.sample_width // 2)
    latents = torch.randn(1, 4, num_latents, 12, 20, generator=torch.Generator().manual_seed(4))
    video = torch.rand(1, 3, 4 * num_latents - 3, 96, 160, generator=torch.Generator().manual_seed(5)) * 2 - 1
    theirs.enable_tiling()
    try:
        expected, moments = theirs.decode(latents).sample, theirs.encode(video).latent_dist
    finally:
        theirs.disable_tiling()
    tiled = ours.decode(latents, tiling=tiling)
    assert relative_error(tiled, expected) <= 1e-5
    assert relative_error(ours.encode(video, tiling=tiling).mean, moments.mean) <= 1e-5
    assert relative_error(ours.decode(latents), expected) > 1e-3, "the test would pass without tiling"


def test_keymap_gives_the_names_of_diffusers(pair):
    ours, theirs = pair
    back = to_external(ours.state_dict(), DIFFUSERS_KEYMAP)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())


def test_official_sizes_are_equal():
    with torch.device("meta"):
        vae = CausalVAE(PRESETS["2b"]())
        theirs = AutoencoderKLCogVideoX()
    count = {half: sum(p.numel() for p in getattr(vae, half).parameters()) for half in ("encoder", "decoder")}
    assert count == {"encoder": 92_215_456, "decoder": 123_368_451}
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in to_external(vae.state_dict(), DIFFUSERS_KEYMAP).items()} == expected


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_diffusers(name):
    config = PRESETS[name]()
    assert VAEConfig.from_diffusers(dict(AutoencoderKLCogVideoX.from_config(config.to_diffusers()).config)) == config
