"""The VAE in strips at the official widths and size: exact, and in how much memory."""

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


def peak(vae: CausalVAE, latents: torch.Tensor, **how) -> int:
    """Bytes beside weights and latents while each chunk of frames is dropped when it is done."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        for _ in vae.decode_stream(latents, **how):
            pass
    return torch.cuda.max_memory_allocated() - before


def test_strips_take_little_memory(vae):
    """49 frames of 480x720 in bfloat16: by count of tensors 7.2 GB whole and 1.1 GB in strips; cuDNN adds to both."""
    latents = torch.randn(1, 16, 13, 60, 90, device="cuda", dtype=torch.bfloat16)
    vae.bfloat16()
    whole, strips = peak(vae, latents), peak(vae, latents, strips=15, offload=True)
    print(f"\npeak of 49x480x720 in bfloat16: {whole / GB:.2f} GB whole, {strips / GB:.2f} GB in strips")
    assert strips <= 0.35 * whole
    assert strips <= 1.5 * GB


@pytest.mark.parametrize("offload", [False, True])
def test_strips_are_exact(vae, offload):
    """In float32, with a cuDNN that may choose another algorithm for another height."""
    latents = torch.randn(1, 16, 5, 15, 20, device="cuda")
    with torch.no_grad():
        whole, strips = vae.decode(latents), vae.decode(latents, strips=4, offload=offload)
        again, encoded = vae.encode(whole).mean, vae.encode(whole, strips=4, offload=offload).mean
    assert (strips - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert (encoded - again).abs().max() <= 1e-5 * again.abs().max()


def test_bfloat16_is_not_worse_than_layer_by_layer():
    """Fused norms round less often: the distance to float32 does not grow."""
    vae = CausalVAE(VAEConfig(block_out_channels=(32, 64, 64, 128)))
    init_weights(vae, torch.Generator().manual_seed(0))
    vae = vae.eval().requires_grad_(False).cuda()
    latents = torch.randn(1, 16, 5, 8, 12, device="cuda")
    exact = vae.decode(latents)  # with gradients allowed, so layer by layer
    vae.bfloat16()
    layers = vae.decode(latents.bfloat16()).float()
    with torch.no_grad():
        fused = vae.decode(latents.bfloat16(), strips=3).float()
    assert (fused - exact).square().mean() <= 1.1**2 * (layers - exact).square().mean()
