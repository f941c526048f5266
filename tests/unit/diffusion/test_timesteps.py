import pytest
import torch

from cogvideox.diffusion.timesteps import explicit_uniform, random_uniform, trailing
from cogvideox.errors import UserError


def test_trailing_values():
    assert trailing(1) == [999]
    assert trailing(4) == [999, 749, 499, 249]
    assert trailing(50) == list(range(999, 0, -20))
    assert trailing(1000) == list(range(999, -1, -1))
    assert trailing(7) == [999, 856, 713, 570, 428, 285, 142]
    assert trailing(3, num_timesteps=10) == [9, 6, 2]


def test_trailing_is_even_for_any_number_of_steps():
    for num_steps in range(1, 1001):
        gaps = [t - t_next for t, t_next in zip(trailing(num_steps), [*trailing(num_steps)[1:], -1])]
        assert len(gaps) == num_steps
        assert all(abs(gap - 1000 / num_steps) < 1.001 for gap in gaps)


@pytest.mark.parametrize(("num_steps", "nearest"), [(0, 1), (-3, 1), (1001, 1000)])
def test_number_of_steps_out_of_range_is_rejected(num_steps, nearest):
    with pytest.raises(UserError, match=f"num_inference_steps={num_steps} .* nearest is {nearest}"):
        trailing(num_steps)


@pytest.mark.parametrize("sample", [explicit_uniform, random_uniform])
def test_training_timesteps_are_a_function_of_their_arguments(sample):
    t = sample(7, 11, 64)
    assert t.shape == (64,) and t.dtype == torch.int64
    assert t.min() >= 0 and t.max() < 1000
    torch.rand(5)
    assert torch.equal(sample(7, 11, 64), t)
    assert not torch.equal(sample(7, 12, 64), t)
    assert not torch.equal(sample(8, 11, 64), t)
    assert sample(0, 0, 500, num_timesteps=10).max() == 9


def test_explicit_uniform_does_not_change_between_versions():
    """Otherwise, resumed runs would differ."""
    assert explicit_uniform(0, 0, 4).tolist() == [951, 692, 276, 74]
    assert explicit_uniform(1, 2, 7).tolist() == [215, 596, 133, 988, 781, 369, 570]
