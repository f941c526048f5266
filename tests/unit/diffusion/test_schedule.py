import pickle

import pytest
import torch

from cogvideox.diffusion.schedule import Schedule


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, [0.99915, 0.652457, 0.241019, 0.0327991, 1.968e-7, 0.0]),
        (3.0, [0.997454, 0.389054, 0.0953281, 0.0108389, 6.23e-8, 0.0]),
    ],
)
def test_values_of_the_official_models(scale, expected):
    abar = Schedule(snr_shift_scale=scale).alphas_cumprod
    assert abar.dtype == torch.float64
    torch.testing.assert_close(abar[[0, 250, 500, 750, 998, 999]], torch.tensor(expected).double(), rtol=1e-3, atol=0)


def test_signal_and_noise_broadcast_to_the_sample():
    schedule, t = Schedule(), torch.tensor([0, 500, 999], dtype=torch.int32)
    for dtype, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        alpha, sigma = schedule.signal_and_noise(t, like=torch.zeros(3, 2, 4, 5, dtype=dtype))
        assert alpha.shape == sigma.shape == (3, 1, 1, 1)
        assert alpha.dtype == sigma.dtype == expected
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert alpha[2] == 0 and sigma[2] == 1


def test_tables_cached_in_inference_mode_work_in_training():
    schedule, t = Schedule(beta_end=0.0123), torch.tensor([10])
    with torch.inference_mode():
        schedule.signal_and_noise(t, like=torch.zeros(1, 2))
    prediction = torch.zeros(1, 2, requires_grad=True)
    _, sigma = schedule.signal_and_noise(t, like=prediction)
    (sigma * prediction).sum().backward()
    torch.testing.assert_close(prediction.grad, sigma.expand(1, 2))


def test_schedules_with_equal_parameters_are_equal():
    assert Schedule() == Schedule() and hash(Schedule()) == hash(Schedule())
    assert Schedule() != Schedule(snr_shift_scale=1.0)
    schedule = Schedule()
    assert schedule.alphas_cumprod is schedule.alphas_cumprod
    assert pickle.loads(pickle.dumps(schedule)) == schedule
