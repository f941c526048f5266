"""Configuration of the noise schedule, with the fields of `scheduler/scheduler_config.json` in diffusers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from cogvideox.config import VARIANT, from_dict
from cogvideox.errors import UserError

Sampler = Literal["ddim", "dpm++"]
PredictionType = Literal["v_prediction", "epsilon"]
"""Output of the transformer: the velocity, or the noise (Ho et al. 2020)."""
Config = TypeVar("Config", bound="ScheduleConfig")

# The diffusers scheduler class of each sampler. Both use the same noise schedule.
DIFFUSERS_CLASSES: dict[Sampler, str] = {"ddim": "CogVideoXDDIMScheduler", "dpm++": "CogVideoXDPMScheduler"}
SAMPLER_OF_SCHEDULER: dict[str, Sampler] = {name: sampler for sampler, name in DIFFUSERS_CLASSES.items()}

# Keys of the diffusers file and their supported values; the first value is written. All timestep spacings of diffusers
# are accepted, because sampling always uses trailing spacing. Early official files have linspace, which the official
# sampling script overrides.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("scaled_linear",),
    "trained_betas": (None,),
    "set_alpha_to_one": (True,),
    "timestep_spacing": ("trailing", "linspace", "leading"),
}

# Keys that have no effect with trailing timestep spacing; written for completeness, ignored when reading.
_WITHOUT_EFFECT: dict[str, Any] = {
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "steps_offset": 0,
}

# Defaults of diffusers for missing keys that differ from the values of CogVideoX.
_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}


@dataclass(frozen=True)
class ScheduleConfig:
    """Parameters of the noise schedule. The defaults are those of 2B; the other official models use no shift (1.0).

    Raises:
        UserError: a value is out of range.
    """

    num_train_timesteps: int = 1000  # timesteps of the noise schedule
    beta_start: float = 0.00085
    """Variance added at the first timestep, before shift and rescaling."""
    beta_end: float = 0.012
    """Variance added at the last timestep, before shift and rescaling."""
    snr_shift_scale: float = 3.0
    """Divisor of the signal-to-noise ratio at every timestep; 1.0 is no shift."""
    rescale_betas_zero_snr: bool = True
    """Zero terminal SNR: the last timestep is pure noise (Lin et al. 2023)."""
    prediction_type: PredictionType = field(default="v_prediction", metadata=VARIANT)  # what the network predicts

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise UserError(f"num_train_timesteps={self.num_train_timesteps} must be 2 or more")
        if not 0 < self.beta_start <= self.beta_end < 1:
            betas = f"beta_start={self.beta_start} and beta_end={self.beta_end}"
            raise UserError(f"{betas} must satisfy 0 < beta_start <= beta_end < 1")
        if not self.snr_shift_scale > 0:
            raise UserError(f"snr_shift_scale={self.snr_shift_scale} must be above 0; 1.0 is no shift")
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise UserError(
                "prediction_type='epsilon' is undefined at zero terminal SNR, where the input is the noise: set "
                "rescale_betas_zero_snr=false, or prediction_type='v_prediction'"
            )

    @classmethod
    def from_diffusers(cls: type[Config], data: Mapping[str, Any]) -> Config:
        """Parse the content of a `scheduler_config.json` for either CogVideoX scheduler of diffusers.

        Raises:
            UserError: an unsupported scheduler, an unknown key, or an unsupported value.
        """
        if data.get("_class_name") not in tuple(SAMPLER_OF_SCHEDULER):  # a tuple: the value may be unhashable
            supported_classes = " or ".join(SAMPLER_OF_SCHEDULER)
            raise UserError(
                f"the scheduler config is for {data.get('_class_name')!r}, but CogVideoX models use {supported_classes}"
            )
        parameters = {key: value for key, value in {**_DIFFUSERS_DEFAULTS, **data}.items() if not key.startswith("_")}
        for key, supported in _SUPPORTED.items():
            if (value := parameters.pop(key, supported[0])) not in supported:
                allowed = ", ".join(map(repr, supported))
                raise UserError(f"the scheduler config sets {key}={value!r}; supported: {allowed}")
        for key in _WITHOUT_EFFECT:
            parameters.pop(key, None)
        return from_dict(cls, parameters, where="the scheduler config")

    def to_diffusers(self, sampler: Sampler) -> dict[str, Any]:
        """Return the content of a `scheduler_config.json` from which diffusers creates this schedule and sampler."""
        fixed = {key: supported[0] for key, supported in _SUPPORTED.items()}
        return {"_class_name": DIFFUSERS_CLASSES[sampler], **asdict(self), **fixed, **_WITHOUT_EFFECT}


PRESETS: dict[str, Callable[[], ScheduleConfig]] = {
    "2b": ScheduleConfig,
    "5b": lambda: ScheduleConfig(snr_shift_scale=1.0),
    "5b-i2v": lambda: ScheduleConfig(snr_shift_scale=1.0),
    "1.5-5b": lambda: ScheduleConfig(snr_shift_scale=1.0),
    "1.5-5b-i2v": lambda: ScheduleConfig(snr_shift_scale=1.0),
}
"""The five official models."""
