"""Laws of the VAE's variants: padding in time and temporal compression."""

from dataclasses import replace

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_vae, save_vae
from cogvideox.pretrained.model_spec import check_compatible
from cogvideox.pretrained.offload.vae_cost import vae_parameters
from cogvideox.vae.causal_conv import ConvCache, SymmetricCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.model import CausalVAE
from tests import tiny

SYMMETRIC = replace(tiny.vae_config("2b"), time_padding="symmetric")


def random_vae(config: VAEConfig) -> CausalVAE:
    vae = CausalVAE(config)
    init_weights(vae, torch.Generator().manual_seed(0))
    return vae


def clip(num_frames: int = 17) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(1, 3, num_frames, 16, 16) * 2 - 1


@torch.no_grad()
def test_symmetric_padding_has_no_direction_in_time():
    """With a kernel that is symmetric in time, reversed frames have the reversed features."""
    vae = random_vae(SYMMETRIC)
    conv = vae.encoder.conv_in
    conv.weight.copy_((conv.weight + conv.weight.flip(2)) / 2)
    video = clip()
    features, reversed_features = (conv(x, SymmetricCache()) for x in (video, video.flip(2)))
    torch.testing.assert_close(reversed_features, features.flip(2))
    causal, reversed_causal = (conv(x, ConvCache()) for x in (video, video.flip(2)))
    assert not torch.allclose(reversed_causal, causal.flip(2), atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(("conv_cache", "reads_later_frames"), [(SymmetricCache, True), (ConvCache, False)])
def test_only_symmetric_padding_reads_later_frames(conv_cache, reads_later_frames):
    """The output of the first convolution at frame 3, if frame 4 changes."""
    conv, video = random_vae(SYMMETRIC).encoder.conv_in, clip()
    changed = video.clone()
    changed[:, :, 4] += 0.5
    before, after = (conv(x, conv_cache())[:, :, 3] for x in (video, changed))
    assert torch.equal(before, after) is not reads_later_frames


def test_symmetric_and_causal_padding_agree_on_constant_clips():
    """Frames that are all equal have equal padding on all sides."""
    causal, symmetric = random_vae(tiny.vae_config("2b")), random_vae(SYMMETRIC)
    symmetric.load_state_dict(causal.state_dict())
    still = clip(1).expand(-1, -1, 17, -1, -1)
    torch.testing.assert_close(
        symmetric.encode(still).mean, causal.encode(still, norm_statistics="clip").mean, rtol=1e-4, atol=1e-5
    )


def test_a_symmetric_vae_has_one_chunk_with_and_without_gradients():
    vae, video = random_vae(SYMMETRIC), clip(25)
    with torch.no_grad():
        expected = vae.decode(vae.encode(video).mean)
    assert expected.shape == video.shape
    torch.testing.assert_close(vae.decode(vae.encode(video, norm_statistics="clip").mean), expected)
    with pytest.raises(UserError, match="causal padding in time"), torch.no_grad():
        vae.encode(video, strips=2)


@pytest.mark.parametrize(("ratio", "num_latents"), [(1, 17), (2, 9), (4, 5), (8, 3)])
def test_temporal_compression(ratio, num_latents):
    """Clips of 17 frames and single images, with and without gradients."""
    config = replace(tiny.vae_config("2b"), temporal_compression_ratio=ratio)
    vae, video = random_vae(config), clip()
    with torch.no_grad():
        latents = vae.encode(video).mean
        reconstruction = vae.decode(latents)
        assert vae.decode(vae.encode(video[:, :, :1]).mean).shape[2] == 1
    assert latents.shape[2] == num_latents and reconstruction.shape == video.shape
    torch.testing.assert_close(vae.encode(video).mean, latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.decode(latents), reconstruction, rtol=1e-4, atol=1e-4)
    assert vae_parameters(config) == sum(parameter.numel() for parameter in vae.parameters())


@pytest.mark.parametrize("channels", [8, 16, 32])
@pytest.mark.parametrize("widths", [(4, 8, 8), (4, 8, 8, 8), (4, 8, 8, 8, 8)])
def test_latent_channels_and_spatial_compression(channels, widths):
    config = replace(tiny.vae_config("2b"), latent_channels=channels, block_out_channels=widths)
    latents = random_vae(config).encode(clip(1)).mean
    size = 16 // 2 ** (len(widths) - 1)
    assert latents.shape == (1, channels, 1, size, size)


def test_frame_counts_of_other_compression_ratios():
    vae = random_vae(replace(tiny.vae_config("2b"), temporal_compression_ratio=8))
    with pytest.raises(UserError, match=r"8k\+1 frames"):
        vae.encode(clip(13))
    with pytest.raises(UserError, match="1, 2 or 8"):
        replace(tiny.vae_config("2b"), temporal_compression_ratio=3)


@pytest.mark.parametrize("change", [{"time_padding": "symmetric"}, {"temporal_compression_ratio": 8}])
def test_variants_are_saved_and_refused_by_transformers(tmp_path, change):
    config = replace(tiny.vae_config("2b"), **change)
    save_vae(random_vae(config), tmp_path)
    assert load_vae(tmp_path).config == config
    with pytest.raises(UserError, match="transformers need a VAE with time_padding=causal"):
        check_compatible(tiny.transformer("2b"), config, tiny.text_config(), where="model")
    assert "time_padding" not in tiny.vae_config("2b").to_diffusers()
