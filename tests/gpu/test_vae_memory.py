"""The VAE in strips at the official widths and resolution: peak memory and accuracy."""

import pytest
import torch

from cogvideox.vae.config import PRESETS, VAEConfig
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.model import CausalVAE

GB = 1e9


@pytest.fixture
def vae() -> CausalVAE:
    vae = CausalVAE(PRESETS["2b"]())
    init_weights(vae, torch.Generator().manual_seed(0))
    return vae.eval().requires_grad_(False).cuda()


def peak_memory(vae: CausalVAE, latents: torch.Tensor, **options) -> int:
    """Decode without keeping the frames. Return the peak memory in bytes, without weights and latents."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        for _ in vae.decode_stream(latents, **options):
            pass
    return torch.cuda.max_memory_allocated() - before


def test_strips_reduce_peak_memory(vae):
    """49 frames of 480x720 in bfloat16. Tensors take 7.2 GB, or 1.1 GB in strips; cuDNN's workspaces are additional."""
    latents = torch.randn(1, 16, 13, 60, 90, device="cuda", dtype=torch.bfloat16)
    vae.bfloat16()
    unsliced, strips = peak_memory(vae, latents), peak_memory(vae, latents, strips=15, offload=True)
    print(f"peak memory of 49x480x720 in bfloat16: {unsliced / GB:.2f} GB, {strips / GB:.2f} GB in strips")
    assert strips <= 0.6 * unsliced  # tensors alone: 0.15; cuDNN's workspaces are the same in both
    assert strips <= 4.2 * GB  # goal G10 of docs/benchmarks.md


@pytest.mark.parametrize("offload", [False, True])
def test_strips_are_exact_up_to_rounding(vae, offload):
    """In float32. For strips, cuDNN may choose an algorithm that sums in a different order."""
    latents = torch.randn(1, 16, 5, 15, 20, device="cuda")
    with torch.no_grad():
        video, video_strips = vae.decode(latents), vae.decode(latents, strips=4, offload=offload)
        mean, mean_strips = vae.encode(video).mean, vae.encode(video, strips=4, offload=offload).mean
    for name, in_strips, expected in (("decode", video_strips, video), ("encode", mean_strips, mean)):
        error = ((in_strips - expected).abs().max() / expected.abs().max()).item()
        print(f"{name} in strips: maximum difference {error:.2g} of the maximum value")
        assert error <= 1e-4


def test_bfloat16_error_in_strips_is_not_larger_than_layer_by_layer():
    """The forward pass without gradients fuses norms, so it rounds less often."""
    vae = CausalVAE(VAEConfig(block_out_channels=(32, 64, 64, 128)))
    init_weights(vae, torch.Generator().manual_seed(0))
    vae = vae.eval().requires_grad_(False).cuda()
    latents = torch.randn(1, 16, 5, 8, 12, device="cuda")
    exact = vae.decode(latents)  # outside of no_grad, so layer by layer
    vae.bfloat16()
    layer_by_layer = vae.decode(latents.bfloat16()).float()
    with torch.no_grad():
        strips = vae.decode(latents.bfloat16(), strips=3).float()
    strips_error, layers_error = ((video - exact).norm().item() for video in (strips, layer_by_layer))
    print(f"distance to float32: {strips_error:.4g} in strips, {layers_error:.4g} layer by layer")
    assert strips_error <= 1.2 * layers_error
