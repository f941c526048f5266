import pytest

from cogvideox.diffusion.config import DIFFUSERS_CLASSES, PRESETS, ScheduleConfig
from cogvideox.errors import UserError

# The official file of 2B.
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


def test_defaults_equal_the_official_file():
    assert ScheduleConfig.from_diffusers(OFFICIAL) == ScheduleConfig()
    assert ScheduleConfig.from_diffusers({**OFFICIAL, "_class_name": "CogVideoXDPMScheduler"}) == ScheduleConfig()


def test_only_2b_is_shifted():
    assert {name: preset().snr_shift_scale for name, preset in PRESETS.items()} == {
        "2b": 3.0,
        "5b": 1.0,
        "5b-i2v": 1.0,
        "1.5-5b": 1.0,
        "1.5-5b-i2v": 1.0,
    }
    assert all(preset().rescale_betas_zero_snr for preset in PRESETS.values())


@pytest.mark.parametrize("sampler", DIFFUSERS_CLASSES)
def test_config_round_trip_through_the_diffusers_format(sampler):
    schedule = ScheduleConfig(num_train_timesteps=500, snr_shift_scale=1.5, rescale_betas_zero_snr=False)
    config = schedule.to_diffusers(sampler)
    assert config.keys() == OFFICIAL.keys() - {"_diffusers_version"}
    assert ScheduleConfig.from_diffusers(config) == schedule
    assert config["_class_name"] == DIFFUSERS_CLASSES[sampler]


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"_class_name": "DDIMScheduler"}, ["'DDIMScheduler'", "CogVideoXDPMScheduler"]),
        ({"_class_name": None}, ["None", "CogVideoXDDIMScheduler"]),
        ({"_class_name": {"name": "CogVideoXDDIMScheduler"}}, ["name", "CogVideoXDDIMScheduler"]),
        ({"prediction_type": "epsilon"}, ["prediction_type='epsilon'", "'v_prediction'"]),
        ({"timestep_spacing": "karras"}, ["timestep_spacing='karras'", "'trailing', 'linspace', 'leading'"]),
        ({"timestep_spacing": ["trailing"]}, ["timestep_spacing=['trailing']"]),
        ({"beta_schedule": "linear"}, ["beta_schedule='linear'", "'scaled_linear'"]),
        ({"trained_betas": [0.1, 0.2]}, ["trained_betas=", "None"]),
        ({"set_alpha_to_one": False}, ["set_alpha_to_one=False", "True"]),
        ({"snr_shift": 3.0}, ["unknown setting snr_shift;", "snr_shift_scale"]),
        ({"snr_shift_scale": 0}, ["snr_shift_scale=0", "above 0"]),
        ({"snr_shift_scale": float("nan")}, ["snr_shift_scale=nan"]),
        ({"snr_shift_scale": "3"}, ["snr_shift_scale", "number", "'3'"]),
        ({"num_train_timesteps": 1}, ["num_train_timesteps=1", "2"]),
        ({"num_train_timesteps": 10.5}, ["num_train_timesteps", "integer", "10.5"]),
        ({"beta_start": 0.02}, ["0.02", "beta_start <= beta_end"]),
        ({"beta_end": None}, ["None"]),
        ({"rescale_betas_zero_snr": "yes"}, ["rescale_betas_zero_snr", "true or false", "'yes'"]),
    ],
)
def test_unsupported_values_are_rejected(change, fragments):
    with pytest.raises(UserError) as caught:
        ScheduleConfig.from_diffusers({**OFFICIAL, **change})
    assert all(fragment in str(caught.value) for fragment in fragments)


@pytest.mark.parametrize("spacing", ["linspace", "leading", None])
def test_other_timestep_spacings_are_read_as_trailing(spacing):
    """Early official files say linspace; the official sampling script overrides it. Files are written with trailing."""
    config = {**OFFICIAL, "timestep_spacing": spacing}
    if spacing is None:
        del config["timestep_spacing"]
    schedule = ScheduleConfig.from_diffusers(config)
    assert schedule == ScheduleConfig()
    assert schedule.to_diffusers("ddim")["timestep_spacing"] == "trailing"


def test_missing_key_has_the_default_of_diffusers():
    with pytest.raises(UserError, match="prediction_type"):
        ScheduleConfig.from_diffusers({name: value for name, value in OFFICIAL.items() if name != "prediction_type"})
    plain = {name: value for name, value in OFFICIAL.items() if name != "rescale_betas_zero_snr"}
    assert ScheduleConfig.from_diffusers(plain) == ScheduleConfig(rescale_betas_zero_snr=False)
