import pytest
import torch

from cogvideox.diffusion.guidance import combine, constant, dynamic, smooth
from cogvideox.diffusion.timesteps import trailing


def test_constant_is_the_same_at_every_timestep():
    assert [constant(6.0)(t) for t in (999, 500, 0)] == [6.0] * 3


def test_dynamic_oscillates_with_the_training_timestep():
    """Values of the official formula at steps 0, 10, 25, 40 and 49 of 50."""
    timesteps, guidance = trailing(50), dynamic(6.0, 50)
    values = [guidance(timesteps[i]) for i in (0, 10, 25, 40, 49)]
    assert values == pytest.approx([2.29, 1.005, 1.52, 6.999, 1.12], abs=0.005)
    assert all(1 <= guidance(t) <= 7 for t in range(1000))


def test_smooth_rises_from_1_to_1_plus_scale():
    values = [smooth(6.0)(t) for t in trailing(50)]
    assert values[0] == 1 and values == sorted(values) and smooth(6.0)(0) == pytest.approx(7.0)
    assert values[25] < 1.1  # most of the rise is near the end


def test_combine_extrapolates_from_uncond_to_cond():
    cond, uncond = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(combine(cond, uncond, 1.0), cond)
    torch.testing.assert_close(combine(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(combine(cond, uncond, 6.0), 6 * cond - 5 * uncond)
    assert combine(cond.bfloat16(), uncond.bfloat16(), 6.0).dtype == torch.float32
