"""SSIM and MS-SSIM against pytorch-msssim, and values that are known."""

import pytest
import pytorch_msssim
import torch

from cogvideox.errors import UserError
from cogvideox.evaluation.reconstruction.structural_similarity import MIN_SIDE, ms_ssim, ssim


def clips(side: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(2, 3, 3, 12, 12, generator=generator) * 2 - 1
    target = torch.nn.functional.interpolate(smooth, size=(3, side, side), mode="trilinear")
    return (target + noise * torch.randn(target.shape, generator=generator)).clamp(-1, 1), target


def frames(video: torch.Tensor) -> torch.Tensor:
    return ((video + 1) / 2).transpose(1, 2).flatten(0, 1).double()


@pytest.mark.parametrize("side", [33, 176])
@pytest.mark.parametrize("noise", [0.01, 0.2, 1.0])
def test_ssim_equals_the_reference(side: int, noise: float):
    x, y = clips(side, noise)
    expected = pytorch_msssim.ssim(frames(x), frames(y), data_range=1.0, size_average=False).view(2, 3).mean(1)
    torch.testing.assert_close(ssim(x, y).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [176, 193])
@pytest.mark.parametrize("noise", [0.01, 0.2, 1.0])
def test_ms_ssim_equals_the_reference(side: int, noise: float):
    x, y = clips(side, noise)
    expected = pytorch_msssim.ms_ssim(frames(x), frames(y), data_range=1.0, size_average=False).view(2, 3).mean(1)
    torch.testing.assert_close(ms_ssim(x, y).double(), expected, atol=1e-5, rtol=0)


def test_equal_clips_have_similarity_1():
    _, y = clips(MIN_SIDE, 0.0)
    assert torch.equal(ssim(y, y), torch.ones(2))
    assert torch.equal(ms_ssim(y, y), torch.ones(2))


def test_flat_frames_have_only_the_luminance_term():
    """Values 0.25 and 0.75: (2 * 0.1875 + c1) / (0.0625 + 0.5625 + c1) with c1 = 1e-4."""
    x, y = (torch.full((1, 3, 1, 16, 16), value) for value in (-0.5, 0.5))
    assert ssim(x, y).item() == pytest.approx((0.375 + 1e-4) / (0.625 + 1e-4), abs=1e-6)


def test_small_frames_are_an_error():
    small = torch.zeros(1, 3, 1, 10, 64)
    with pytest.raises(UserError, match="at least 11 pixels, got 10x64"):
        ssim(small, small)
    with pytest.raises(UserError, match="at least 161 pixels"):
        ms_ssim(small, small)
