"""The VAE equals diffusers' AutoencoderKLCogVideoX with the same random weights, in float32."""

import copy

import pytest
import torch

from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.vae.checkpoint_keys import DIFFUSERS_KEYMAP
from cogvideox.vae.config import PRESETS, VAEConfig
from cogvideox.vae.inference.sliced import use_channels_last_weights
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
    reference = AutoencoderKLCogVideoX.from_config(SMALL.to_diffusers()).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            std = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn_like(parameter) * std)
            if name.endswith("norm_layer.weight") or "conv_y.conv.bias" in name:
                parameter.add_(1.0)
    vae = CausalVAE(SMALL).eval()
    vae.load_state_dict(to_internal(reference.state_dict(), DIFFUSERS_KEYMAP))
    return vae, reference


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("num_frames", [1, 5, 9, 13, 17, 21, 25])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@torch.no_grad()
def test_posteriors_are_equal(pair, num_frames, size):
    vae, reference = pair
    video = torch.rand(2, 3, num_frames, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior, expected = vae.encode(video), reference.encode(video).latent_dist
    assert relative_error(posterior.mean, expected.mean) <= 1e-5
    assert relative_error(posterior.logvar, expected.logvar) <= 1e-5
    sample = posterior.sample(torch.Generator().manual_seed(2))
    assert relative_error(sample, expected.sample(torch.Generator().manual_seed(2))) <= 1e-5
    # diffusers does not sum over the width
    assert relative_error(posterior.kl(), expected.kl().sum(1)) <= 1e-5


@pytest.mark.parametrize("strips", [1, 3])
@torch.no_grad()
def test_bfloat16_error_is_at_most_that_of_diffusers(pair, strips):
    _, reference = pair
    latents = torch.randn(1, 4, 5, 6, 6, generator=torch.Generator().manual_seed(3))
    exact = reference.decode(latents).sample
    rounded_vae, rounded_reference = (copy.deepcopy(network).bfloat16() for network in pair)
    use_channels_last_weights(rounded_vae)
    error, reference_error = (
        (decoded.float() - exact).norm()
        for decoded in (
            rounded_vae.decode(latents.bfloat16(), strips=strips),
            rounded_reference.decode(latents.bfloat16()).sample,
        )
    )
    assert 0 < error <= 1.1 * reference_error
    assert torch.equal(rounded_vae.decode(latents.bfloat16()), rounded_vae.decode(latents.bfloat16()))


@pytest.mark.parametrize("num_latents", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@torch.no_grad()
def test_decoded_videos_are_equal(pair, num_latents, size):
    vae, reference = pair
    latents = torch.randn(2, 4, num_latents, *size, generator=torch.Generator().manual_seed(3))
    assert relative_error(vae.decode(latents), reference.decode(latents).sample) <= 1e-5


@pytest.mark.parametrize("num_latents", [1, 3, 5])
@torch.no_grad()
def test_tiling_is_equal(pair, num_latents):
    """Tiles have the official proportions: half of the sample size, with overlaps of 1/6 and 1/5."""
    vae, reference = pair
    tiling = Tiling(SMALL.sample_height // 2, SMALL.sample_width // 2)
    latents = torch.randn(1, 4, num_latents, 12, 20, generator=torch.Generator().manual_seed(4))
    video = torch.rand(1, 3, 4 * num_latents - 3, 96, 160, generator=torch.Generator().manual_seed(5)) * 2 - 1
    reference.enable_tiling()
    try:
        expected, moments = reference.decode(latents).sample, reference.encode(video).latent_dist
    finally:
        reference.disable_tiling()
    tiled = vae.decode(latents, tiling=tiling)
    assert relative_error(tiled, expected) <= 1e-5
    assert relative_error(vae.encode(video, tiling=tiling).mean, moments.mean) <= 1e-5
    assert relative_error(vae.decode(latents), expected) > 1e-3, "the test would pass without tiling"


def test_exported_state_dict_equals_that_of_diffusers(pair):
    vae, reference = pair
    external = to_external(vae.state_dict(), DIFFUSERS_KEYMAP)
    assert external.keys() == reference.state_dict().keys()
    assert all(torch.equal(external[name], value) for name, value in reference.state_dict().items())


def test_official_sizes_are_equal():
    with torch.device("meta"):
        vae = CausalVAE(PRESETS["2b"]())
        reference = AutoencoderKLCogVideoX()
    networks = {"encoder": vae.encoder, "decoder": vae.decoder}
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counts == {"encoder": 92_215_456, "decoder": 123_368_451}
    expected = {name: value.shape for name, value in reference.state_dict().items()}
    assert {name: value.shape for name, value in to_external(vae.state_dict(), DIFFUSERS_KEYMAP).items()} == expected


@pytest.mark.parametrize("name", PRESETS)
def test_config_round_trip_through_diffusers(name):
    config = PRESETS[name]()
    assert VAEConfig.from_diffusers(dict(AutoencoderKLCogVideoX.from_config(config.to_diffusers()).config)) == config
