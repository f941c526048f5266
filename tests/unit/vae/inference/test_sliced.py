"""The forward pass in strips: norm statistics, resampling layers and peak memory."""

import pytest
import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.inference import sliced
from cogvideox.vae.inference.group_stats import group_moments
from cogvideox.vae.inference.sliced_cache import SlicedCache
from cogvideox.vae.layers import Downsample, Upsample
from cogvideox.vae.model import CausalVAE
from tests.peak_memory import PeakMemory

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, layers_per_block=1, latent_channels=4)


def channels_last(*shape: int) -> Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("num_strips", [1, 3])
def test_moments_of_many_pixels_are_accurate(mean, num_strips):
    """Sequential accumulation of these 400,000 pixels in float32 would have an error of 5e-4."""
    x = channels_last(2, 8, 1, 500, 800) + mean
    strips = [strip.contiguous(memory_format=torch.channels_last_3d) for strip in x.tensor_split(num_strips, dim=3)]
    group_mean, group_variance = group_moments(strips, num_groups=4)
    groups = x.double().reshape(2, 4, -1)
    torch.testing.assert_close(group_mean, groups.mean(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(group_variance, groups.var(-1, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_moments_are_accurate_in_every_dtype(dtype):
    x = (channels_last(2, 8, 3, 4, 5) + 1).to(dtype)
    mean, variance = group_moments([x], num_groups=2)
    groups = x.double().reshape(2, 2, -1)
    torch.testing.assert_close(mean, groups.mean(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, groups.var(-1, correction=0), rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_bfloat16_is_rounded_once_after_norm_and_activation(chunk_frames, monkeypatch):
    """Norm, modulation and SiLU are computed in float32, in blocks of any size."""
    monkeypatch.setattr(sliced, "_CACHED_VALUES", 100)
    x = (channels_last(2, 4, chunk_frames, 6, 8) + 3).bfloat16()
    for scale_shape in ((2, 4, chunk_frames, 3, 4), (2, 4, 1, 1, 1)):
        scale, shift = channels_last(*scale_shape), channels_last(*scale_shape)
        out, exact = torch.empty_like(x), torch.empty_like(x, dtype=torch.float32)
        sliced._write_activated(x, scale, shift, out)
        sliced._write_activated(x.float(), scale, shift, exact)
        assert torch.equal(out, exact.bfloat16())


@torch.no_grad()
def test_bfloat16_in_strips_equals_whole_frames():
    vae = CausalVAE(SMALL).requires_grad_(False).bfloat16()
    sliced.use_channels_last_weights(vae)
    latents = torch.randn(1, 4, 3, 4, 4).bfloat16()
    whole = vae.decode(latents)
    torch.testing.assert_close(vae.decode(latents, strips=3), whole, rtol=0.05, atol=0.05)
    exact = CausalVAE(SMALL).requires_grad_(False)
    exact.load_state_dict({name: tensor.float() for name, tensor in vae.state_dict().items()})
    error = (exact.decode(latents.float()) - whole.float()).norm() / whole.float().norm()
    assert 0 < error < 0.03


@pytest.mark.parametrize("layer", [Upsample, Downsample])
@pytest.mark.parametrize("compress_time", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
@torch.no_grad()
def test_resampling_in_strips_equals_the_layer(layer, compress_time, is_first):
    torch.manual_seed(1)
    layer, sliced_cache, conv_cache = layer(4, compress_time), SlicedCache(3), ConvCache()
    sliced_cache.is_first = conv_cache.is_first = is_first
    x = torch.randn(2, 4, 5 if is_first else 4, 10, 6)
    resampled = sliced_cache.join(sliced.resample(layer, sliced_cache.split(x, 2), sliced_cache))
    torch.testing.assert_close(resampled, layer(x, conv_cache))


@torch.no_grad()
def test_strips_are_exact_with_latent_height_or_width_1():
    """With a height or width of 1, a tensor is contiguous in several memory formats."""
    vae = CausalVAE(SMALL).requires_grad_(False)
    ratio = vae.config.spatial_compression_ratio
    for height, width in [(ratio, ratio), (ratio, 3 * ratio), (3 * ratio, ratio)]:
        video = torch.randn(1, 3, 1, height, width)
        with torch.enable_grad():
            latents = vae.encode(video).mean
            decoded = vae.decode(latents)
        torch.testing.assert_close(vae.encode(video, strips=2).mean, latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(vae.decode(latents, strips=2), decoded, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_strips_and_offloading_reduce_peak_memory():
    """Official channel ratios; 17 frames (two chunks)."""
    vae = CausalVAE(
        VAEConfig(block_out_channels=(16, 32, 32, 64), norm_num_groups=8, layers_per_block=2)
    ).requires_grad_(False)
    latents = torch.randn(1, 16, 5, 6, 4)

    def peak(*, gradients: bool = False, **options) -> int:
        with PeakMemory(latents, *vae.parameters(), device="cpu") as memory, torch.set_grad_enabled(gradients):
            vae.decode(latents, **options)
        return memory.peak

    with_gradients = peak(gradients=True)
    assert peak(strips=1) <= 0.9 * with_gradients
    assert peak(strips=6) <= 0.65 * with_gradients
    assert peak(strips=6, offload=True) <= 0.45 * with_gradients


def test_zero_strips_and_strips_with_gradients_are_rejected():
    vae = CausalVAE(SMALL)
    ratio, channels = vae.config.spatial_compression_ratio, vae.config.latent_channels
    with torch.no_grad(), pytest.raises(UserError, match="strips=0"):
        vae.encode(torch.zeros(1, 3, 1, ratio, ratio), strips=0)
    with pytest.raises(UserError, match="without gradients"):
        vae.decode(torch.zeros(1, channels, 1, 1, 1), strips=2)
