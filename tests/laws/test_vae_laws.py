"""Laws of the causal VAE, which hold for any weights."""

import copy
from fractions import Fraction

import pytest
import torch

from cogvideox.vae.causal_conv import ConvCache, StreamingCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.inference.tiled import Tiling
from cogvideox.vae.init_weights import init_weights, rescale_latents
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, layers_per_block=1, latent_channels=4)


@pytest.fixture(scope="module")
def vae() -> CausalVAE:
    vae = CausalVAE(SMALL).eval().requires_grad_(False).double()
    generator = torch.Generator().manual_seed(0)
    init_weights(vae, generator)
    for parameter in vae.parameters():  # initial zeros and identities would hide errors
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return vae


class _FrozenStatistics:
    """GroupNorm with fixed statistics: mean 0, variance 1."""

    def group_norm(self, x, num_groups, weight, bias, eps):
        return x * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


class FrozenCache(_FrozenStatistics, ConvCache): ...


class FrozenStreamingCache(_FrozenStatistics, StreamingCache): ...


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("first_changed", [1, 2, 4, 5, 8])
def test_encoder_convolutions_are_causal_frame_by_frame(vae, first_changed):
    """With frozen norm statistics, a frame does not affect latents before its own."""
    video = noise(1, 3, 9, 16, 16)
    changed = video.clone()
    changed[:, :, first_changed:] += 1.0
    before, after = (vae.encoder(x, FrozenCache()) for x in (video, changed))
    affected = (first_changed + 3) // 4  # the latent that contains frame `first_changed`
    torch.testing.assert_close(before[:, :, :affected], after[:, :, :affected], rtol=0, atol=0)
    assert not torch.equal(before[:, :, affected], after[:, :, affected])


@pytest.mark.parametrize("first_changed", [1, 2])
def test_decoder_convolutions_are_causal_latent_by_latent(vae, first_changed):
    latents = noise(1, 4, 3, 2, 2)
    changed = latents.clone()
    changed[:, :, first_changed:] += 1.0
    before, after = (vae.decoder(z, FrozenCache()) for z in (latents, changed))
    affected = 4 * first_changed - 3
    torch.testing.assert_close(before[:, :, :affected], after[:, :, :affected], rtol=0, atol=0)
    assert not torch.equal(before[:, :, affected], after[:, :, affected])


@pytest.mark.parametrize("sizes", [[1, 8, 8], [9, 8], [5, 4, 8], [13, 4]])
def test_streaming_equals_a_single_call_with_frozen_norms(vae, sizes):
    video = noise(1, 3, 17, 16, 16)
    conv_cache, parts = FrozenStreamingCache(), []
    for chunk in video.split(sizes, dim=2):
        parts.append(vae.encoder(chunk, conv_cache))
        conv_cache.advance()
    expected = vae.encoder(video, FrozenCache())
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, rtol=1e-9, atol=1e-11)

    latents, conv_cache, parts = noise(1, 4, 5, 2, 2), FrozenStreamingCache(), []
    for chunk in latents.split([1, 2, 2], dim=2):
        parts.append(vae.decoder(chunk, conv_cache))
        conv_cache.advance()
    expected = vae.decoder(latents, FrozenCache())
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, rtol=1e-9, atol=1e-11)


class ChunkNormCache(ConvCache):
    """Cache for a whole clip in a single call, with separate norm statistics for chunks of these sizes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def group_norm(self, x, num_groups, weight, bias, eps):
        # At half the frame rate, chunks have half as many frames; the first frame remains one frame.
        rate = Fraction(x.shape[2] - 1, sum(self.sizes) - 1)
        sizes = [int((self.sizes[0] - 1) * rate) + 1, *(int(size * rate) for size in self.sizes[1:])]
        norm = super().group_norm
        return torch.cat([norm(part, num_groups, weight, bias, eps) for part in x.split(sizes, dim=2)], dim=2)


def test_streaming_equals_a_single_call_with_the_same_chunks(vae):
    video, latents = noise(1, 3, 29, 16, 16), noise(1, 4, 8, 2, 2)
    expected = Posterior.from_moments(vae.encoder(video, ChunkNormCache([13, 8, 8])))
    torch.testing.assert_close(vae.encode(video).mean, expected.mean, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(vae.encode(video).logvar, expected.logvar, rtol=1e-9, atol=1e-11)
    expected = vae.decoder(latents, ChunkNormCache([2, 2, 2, 2]))
    torch.testing.assert_close(vae.decode(latents), expected, rtol=1e-9, atol=1e-11)
    other_chunks = vae.decoder(latents, ChunkNormCache([4, 4]))
    assert (vae.decode(latents) - other_chunks).abs().max() > 1e-3  # results depend on the chunks


@pytest.mark.parametrize("num_frames", [17, 25, 49])
@pytest.mark.parametrize("strips", [1, 2, 4])
def test_whole_clip_encoding_equals_a_single_call(vae, num_frames, strips):
    """Also in strips of rows, with offloading, and in float32."""
    video = noise(1, 3, num_frames, 32, 16)
    expected = Posterior.from_moments(vae.encoder(video, ConvCache()))
    float32_vae = copy.deepcopy(vae).float()
    with torch.no_grad():
        actual = vae.encode(video, norm_statistics="clip", strips=strips, offload=strips > 1)
        rounded = float32_vae.encode(video.float(), norm_statistics="clip", strips=strips)
        chunks = vae.encode(video).mean
    torch.testing.assert_close(actual.mean, expected.mean, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(actual.logvar, expected.logvar, rtol=1e-9, atol=1e-11)
    assert (rounded.mean - expected.mean).abs().max() <= 1e-5 * expected.mean.abs().max()
    assert (chunks - expected.mean).abs().max() > 1e-3  # chunks give other latents


def test_clips_of_up_to_13_frames_are_a_single_chunk(vae):
    for num_frames in (1, 5, 9, 13):
        video = noise(1, 3, num_frames, 16, 16)
        assert torch.equal(vae.encode(video, norm_statistics="clip").mean, vae.encode(video).mean)


def test_norm_statistics_include_the_whole_chunk(vae):
    """Within a chunk, the VAE is not causal: the last frames affect the first latent, and vice versa."""
    video, latents = noise(1, 3, 9, 16, 16), noise(1, 4, 3, 2, 2)
    before_z, before = vae.encode(video).mean[:, :, 0], vae.decode(latents)[:, :, 0]
    video[:, :, 5:] += 1.0
    latents[:, :, 2:] += 1.0
    assert (vae.encode(video).mean[:, :, 0] - before_z).abs().max() > 1e-3
    assert (vae.decode(latents)[:, :, 0] - before).abs().max() > 1e-3


def test_whole_vae_is_causal_chunk_by_chunk(vae):
    """A chunk does not depend on later chunks: here 9 frames, then 8 and 8."""
    video = noise(1, 3, 25, 16, 16)
    changed = video.clone()
    changed[:, :, 17:] += 1.0
    before, after = vae.encode(video).mean, vae.encode(changed).mean
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5], rtol=0, atol=0)
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])
    latents = noise(1, 4, 7, 2, 2)
    changed = latents.clone()
    changed[:, :, 5:] += 1.0
    before, after = vae.decode(latents), vae.decode(changed)
    torch.testing.assert_close(before[:, :, :17], after[:, :, :17], rtol=0, atol=0)
    assert not torch.equal(before[:, :, 17:], after[:, :, 17:])


@pytest.mark.parametrize("num_latents", range(1, 9))
def test_n_latents_decode_to_4n_minus_3_frames(vae, num_latents):
    latents = noise(1, 4, num_latents, 2, 3)
    video = vae.decode(latents)
    assert video.shape == (1, 3, 4 * num_latents - 3, 16, 24)
    assert vae.encode(video).mean.shape == latents.shape


@pytest.mark.parametrize("tiling", [None, Tiling(16, 16)])
def test_decode_stream_equals_decode(vae, tiling):
    latents = noise(1, 4, 6, 3, 3)
    chunks = list(vae.decode_stream(latents, tiling=tiling))
    assert [chunk.shape[2] for chunk in chunks] == [5, 8, 8]
    torch.testing.assert_close(torch.cat(chunks, dim=2), vae.decode(latents, tiling=tiling), rtol=0, atol=0)


def test_decode_stream_yields_the_first_frames_before_it_reads_the_last_latents(vae):
    latents = noise(1, 4, 5, 2, 2)
    latents[:, :, 3:] = float("nan")
    first = next(vae.decode_stream(latents))
    assert first.shape[2] == 9
    assert first.isfinite().all()


def test_a_tile_larger_than_the_frame_equals_no_tiling(vae):
    latents = noise(1, 4, 3, 2, 2)
    torch.testing.assert_close(vae.decode(latents, tiling=Tiling(64, 64)), vae.decode(latents), rtol=0, atol=0)


def test_gradients_reach_every_parameter():
    vae = CausalVAE(SMALL).double()
    init_weights(vae, torch.Generator().manual_seed(0))
    posterior = vae.encode(noise(1, 3, 9, 16, 16))
    loss = vae.decode(posterior.sample(torch.Generator().manual_seed(1))).square().mean() + posterior.kl().mean()
    loss.backward()
    without_gradient = [
        name for name, parameter in vae.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without_gradient == []


def test_rescaled_latents_decode_to_the_same_video(vae):
    """With a different factor for each latent channel, and more than one chunk in time."""
    video, factors = noise(1, 3, 17, 16, 16), torch.tensor([0.1, 1.0, 3.0, 20.0], dtype=torch.float64)
    before = vae.encode(video)
    rescaled = copy.deepcopy(vae)
    rescale_latents(rescaled, factors)
    after, factors = rescaled.encode(video), factors.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(after.mean, before.mean * factors)
    torch.testing.assert_close(after.logvar, before.logvar + 2 * factors.log())
    torch.testing.assert_close(rescaled.decode(after.mean), vae.decode(before.mean))


@pytest.mark.parametrize("num_strips", [1, 2, 3, 5, 99])
@pytest.mark.parametrize("num_frames", [1, 5, 17, 21])
def test_strips_equal_the_forward_pass_with_gradients(vae, num_strips, num_frames):
    video = noise(2, 3, num_frames, 40, 24)
    latents = noise(2, 4, (num_frames + 3) // 4, 5, 3)
    posterior, decoded = vae.encode(video), vae.decode(latents)
    with torch.no_grad():
        in_strips = vae.encode(video, strips=num_strips)
        torch.testing.assert_close(vae.decode(latents, strips=num_strips), decoded, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(in_strips.mean, posterior.mean, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(in_strips.logvar, posterior.logvar, rtol=1e-9, atol=1e-11)


@torch.no_grad()
def test_offloading_does_not_change_results(vae):
    video, latents = noise(1, 3, 17, 24, 16), noise(1, 4, 5, 3, 2)
    before, after = (vae.encode(video, strips=3, offload=offload).mean for offload in (False, True))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    before, after = (vae.decode(latents, strips=3, offload=offload) for offload in (False, True))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{"strips": 2}, {"tiling": Tiling(16, 16)}, {"strips": 2, "tiling": Tiling(16, 16)}]
)
def test_strips_and_tiles_modify_neither_weights_nor_inputs(vae, options):
    video, latents = noise(1, 3, 9, 24, 24), noise(1, 4, 5, 3, 3)
    before = copy.deepcopy((video, latents, vae.state_dict()))
    with torch.no_grad():
        first = vae.encode(video, **options).mean, vae.decode(latents, **options)
        second = vae.encode(video, **options).mean, vae.decode(latents, **options)
    torch.testing.assert_close((video, latents, vae.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
