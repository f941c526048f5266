"""Convolutions without gradients on CPUs: repeated first frames, and prepared weights."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.pretrained.offload.vae_cost import UNSLICED, VAESlicing, prepared_parameters
from cogvideox.vae.causal_conv import CausalConv3d, ConvCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.inference import sliced
from cogvideox.vae.inference.convolutions import (
    PreparedWeights,
    causal_convolution,
    filters_before_upsampling,
    prepared_weight,
    uses_onednn,
)
from cogvideox.vae.inference.sliced_cache import SlicedCache
from cogvideox.vae.model import CausalVAE

SMALL = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, layers_per_block=1, latent_channels=4)

pytestmark = pytest.mark.skipif(not uses_onednn(torch.empty(0)), reason="needs oneDNN on an x86 CPU")


def channels_last(*shape: int) -> Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last_3d)


def small_vae(dtype: torch.dtype = torch.float32) -> CausalVAE:
    vae = CausalVAE(SMALL).requires_grad_(False).to(dtype)
    sliced.use_channels_last_weights(vae)
    return vae


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2])
@torch.no_grad()
def test_a_repeated_first_frame_equals_padding_with_copies(num_frames, batch_size):
    torch.manual_seed(0)
    conv = CausalConv3d(6, 10).requires_grad_(False)
    x, residual = channels_last(batch_size, 6, num_frames, 7, 4), channels_last(batch_size, 10, num_frames, 5, 4)
    expected = F.conv3d(ConvCache().pad_time(conv, x, 2), conv.weight, conv.bias, padding=(0, 0, 1))
    for prepared in (None, PreparedWeights()):
        out = causal_convolution(x, conv, prepared, repeats_first=True)
        torch.testing.assert_close(out, expected)
        out = causal_convolution(x, conv, prepared, repeats_first=True, residual=residual.clone())
        torch.testing.assert_close(out, expected + residual)
        padded = ConvCache().pad_time(conv, x, 2)
        torch.testing.assert_close(causal_convolution(padded, conv, prepared, residual=residual.clone()), out)


@torch.no_grad()
def test_the_residual_is_added_before_the_result_is_rounded():
    conv = CausalConv3d(4, 4).requires_grad_(False).bfloat16()
    x, residual = channels_last(1, 4, 4, 5, 3).bfloat16(), channels_last(1, 4, 2, 3, 3).bfloat16()
    exact = F.conv3d(x.float(), conv.weight.float(), conv.bias.float(), padding=(0, 0, 1)) + residual.float()
    assert torch.equal(causal_convolution(x, conv, None, residual=residual.clone()), exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_prepared_weights_give_the_same_bits(dtype, monkeypatch):
    """With and without the frames of an earlier chunk (5 latent frames are two chunks), and for images."""
    if not uses_onednn(torch.empty(0, dtype=dtype)):
        pytest.skip(f"oneDNN has no {dtype} kernels on this CPU")
    vae = small_vae(dtype)
    latents, video = torch.randn(2, 4, 5, 4, 3).to(dtype), torch.randn(2, 3, 17, 32, 24).to(dtype)

    def results() -> list[Tensor]:
        return [
            vae.decode(latents),
            vae.encode(video).mean,
            vae.decode(latents[:, :, :1]),
            vae.encode(video[:, :, :1]).mean,
        ]

    first, again = results(), results()
    assert vae.prepared_weights.num_bytes()
    monkeypatch.setattr("cogvideox.vae.inference.convolutions.MAX_PREPARED_PIXELS", 0)
    for expected, a, b in zip(results(), first, again, strict=True):
        assert torch.equal(a, expected) and torch.equal(b, expected)
    assert torch.allclose(vae.decode(latents, strips=3), expected := results()[0], rtol=0.05, atol=0.05), expected


@torch.no_grad()
def test_a_changed_weight_is_prepared_again():
    vae, latents = small_vae(), torch.randn(1, 4, 3, 4, 4)
    before = vae.decode(latents)
    size = vae.prepared_weights.num_bytes()
    vae.decoder.mid.resnets[0].conv1.weight.mul_(2)
    vae.decoder.mid.resnets[0].conv2.weight.data = torch.randn_like(vae.decoder.mid.resnets[0].conv2.weight)
    after = vae.decode(latents)
    assert not torch.equal(before, after)
    assert vae.prepared_weights.num_bytes() == size
    vae.prepared_weights.clear()
    assert torch.equal(vae.decode(latents), after)


@torch.no_grad()
def test_copies_pickles_and_moved_networks_have_no_prepared_weights():
    vae, latents = small_vae(), torch.randn(1, 4, 1, 2, 2)
    names = list(vae.state_dict())
    decoded = vae.decode(latents)
    assert vae.prepared_weights.num_bytes() and list(vae.state_dict()) == names
    for other in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        assert other.prepared_weights.num_bytes() == 0
        assert torch.equal(other.decode(latents), decoded)
    vae.double()
    assert vae.prepared_weights.num_bytes() == 0
    vae.decode(latents.double())
    assert vae.prepared_weights.num_bytes() == 0, "oneDNN does not compute in float64"


@pytest.mark.parametrize("options", [{"strips": 2}, {"offload": True}])
@torch.no_grad()
def test_nothing_is_kept_for_strips_offloading_or_trained_weights(options):
    vae, latents = small_vae(), torch.randn(1, 4, 1, 2, 2)
    vae.decode(latents, **options)
    vae.requires_grad_(True).decode(latents)
    assert vae.prepared_weights.num_bytes() == 0


@torch.no_grad()
def test_weights_that_are_inference_tensors_are_not_kept():
    """Their changes are not counted."""
    with torch.inference_mode():
        vae = small_vae()
        vae.decode(torch.randn(1, 4, 1, 2, 2))
    assert vae.prepared_weights.num_bytes() == 0


@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 8), (16, 24), (40, 40)])
@torch.no_grad()
def test_the_memory_estimate_counts_prepared_weights(height, width):
    vae = small_vae()
    for decoder, network in ((True, vae.decoder), (False, vae.encoder)):
        estimate = 4 * prepared_parameters(SMALL, height, width, UNSLICED, decoder=decoder)
        assert prepared_parameters(SMALL, height, width, VAESlicing(2), decoder=decoder) == 0
        vae.prepared_weights.clear()
        shape = (1, 4, 3, height, width) if decoder else (1, 3, 9, 8 * height, 8 * width)
        conv_cache = SlicedCache(prepared_weights=vae.prepared_weights, is_last=True)
        (sliced.decode if decoder else sliced.encode)(network, torch.randn(shape), conv_cache)
        assert vae.prepared_weights.num_bytes() == estimate


@torch.no_grad()
def test_prepared_weights_of_upsampling_are_those_of_the_layer():
    conv, prepared = torch.nn.Conv2d(3, 5, 3).requires_grad_(False), PreparedWeights()
    kept = prepared_weight(conv, "before upsampling", filters_before_upsampling, 64, prepared)
    assert torch.equal(kept.to_dense(), filters_before_upsampling(conv.weight))
