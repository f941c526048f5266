import pickle

import pytest
import torch

from cogvideox.diffusion.schedule import Schedule, sampler_name
from cogvideox.errors import UserError

# What the official folders hold, at 2B.
OFFICIAL = {
    "_class_name": "CogVideoXDDIMScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "snr_shift_scale": 3.0,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}


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


def test_signal_and_noise_fit_the_sample():
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


def test_log_snr():
    schedule = Schedule()
    abar = schedule.alphas_cumprod
    log_snr = schedule.log_snr(torch.tensor([[0, 500], [998, 999]]))
    torch.testing.assert_close(log_snr[0, 1], torch.log(abar[500] / (1 - abar[500])))
    assert log_snr[1, 1] == -torch.inf


def test_tables_made_without_gradients_serve_training_later():
    schedule, t = Schedule(beta_end=0.0123), torch.tensor([10])
    with torch.inference_mode():
        schedule.signal_and_noise(t, like=torch.zeros(1, 2))
    prediction = torch.zeros(1, 2, requires_grad=True)
    _, sigma = schedule.signal_and_noise(t, like=prediction)
    (sigma * prediction).sum().backward()
    torch.testing.assert_close(prediction.grad, sigma.expand(1, 2))


def test_equal_settings_are_equal_schedules():
    assert Schedule() == Schedule() and hash(Schedule()) == hash(Schedule())
    assert Schedule() != Schedule(snr_shift_scale=1.0)
    used = Schedule()
    assert used.alphas_cumprod is used.alphas_cumprod
    assert pickle.loads(pickle.dumps(used)) == used


def test_official_file():
    assert Schedule.from_diffusers(OFFICIAL) == Schedule()
    assert sampler_name(OFFICIAL) == "ddim"
    assert sampler_name({**OFFICIAL, "_class_name": "CogVideoXDPMScheduler"}) == "dpm++"


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_file_comes_back(sampler):
    schedule = Schedule(num_train_timesteps=500, snr_shift_scale=1.5, rescale_betas_zero_snr=False)
    config = schedule.to_diffusers(sampler)
    assert config.keys() == OFFICIAL.keys() - {"_diffusers_version"}
    assert Schedule.from_diffusers(config) == schedule
    assert sampler_name(config) == sampler


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "DDIMScheduler"}, ["'DDIMScheduler'", "CogVideoXDPMScheduler"]),
        ({"_class_name": None}, ["None", "CogVideoXDDIMScheduler"]),
        ({"prediction_type": "epsilon"}, ["prediction_type='epsilon'", "'v_prediction'"]),
        ({"timestep_spacing": "leading"}, ["timestep_spacing='leading'", "'trailing'"]),
        ({"beta_schedule": "linear"}, ["beta_schedule='linear'", "'scaled_linear'"]),
        ({"trained_betas": [0.1, 0.2]}, ["trained_betas=", "None"]),
        ({"set_alpha_to_one": False}, ["set_alpha_to_one=False", "True"]),
        ({"snr_shift": 3.0}, ["'snr_shift'", "'snr_shift_scale'"]),
        ({"snr_shift_scale": 0}, ["snr_shift_scale=0", "above 0"]),
        ({"snr_shift_scale": float("nan")}, ["snr_shift_scale=nan"]),
        ({"snr_shift_scale": "3"}, ["snr_shift_scale='3'"]),
        ({"num_train_timesteps": 1}, ["num_train_timesteps=1", "2"]),
        ({"num_train_timesteps": 10.5}, ["num_train_timesteps=10.5"]),
        ({"beta_start": 0.02}, ["0.02", "beta_start <= beta_end"]),
        ({"beta_end": None}, ["None"]),
        ({"rescale_betas_zero_snr": "yes"}, ["rescale_betas_zero_snr='yes'"]),
    ],
)
def test_a_file_that_cannot_be_honoured_is_refused(change, words):
    with pytest.raises(UserError) as caught:
        Schedule.from_diffusers({**OFFICIAL, **change})
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("key", ["prediction_type", "timestep_spacing"])
def test_an_absent_key_means_what_it_means_to_diffusers(key):
    with pytest.raises(UserError, match=key):
        Schedule.from_diffusers({name: value for name, value in OFFICIAL.items() if name != key})
    plain = {name: value for name, value in OFFICIAL.items() if name != "rescale_betas_zero_snr"}
    assert Schedule.from_diffusers(plain) == Schedule(rescale_betas_zero_snr=False)


def test_unknown_sampler_for_a_file():
    with pytest.raises(UserError, match="'ddim', 'dpm\\+\\+'"):
        Schedule().to_diffusers("euler")
