"""The noise schedule's configuration, field for field what diffusers stores in `scheduler/scheduler_config.json`.

Imports no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from cogvideox.config import from_dict
from cogvideox.errors import UserError

Sampler = Literal["ddim", "dpm++"]
Config = TypeVar("Config", bound="ScheduleConfig")

# The class that a folder names in diffusers for each sampler. The schedule is the same with either.
DIFFUSERS_CLASSES: dict[Sampler, str] = {"ddim": "CogVideoXDDIMScheduler", "dpm++": "CogVideoXDPMScheduler"}
SAMPLER_OF_SCHEDULER: dict[str, Sampler] = {name: sampler for sampler, name in DIFFUSERS_CLASSES.items()}

# Keys of the diffusers file that carry no choice here, with the only value that is supported.
_FIXED: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}

# Keys that neither diffusers class looks at when steps are trailing: written for completeness, not read.
_WITHOUT_EFFECT: dict[str, Any] = {
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "steps_offset": 0,
}

# What an absent key means to diffusers, where that is not what CogVideoX uses.
_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}


@dataclass(frozen=True)
class ScheduleConfig:
    """What a noise schedule is made from. Defaults are those of 2B; the other official models have no shift (1.0).

    Raises:
        UserError: a value from which no schedule can be made.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    """Variance that the first timestep adds, before shift and rescale; `beta_end` likewise for the last."""
    beta_end: float = 0.012
    snr_shift_scale: float = 3.0
    """The signal-to-noise ratio of every timestep is divided by this."""
    rescale_betas_zero_snr: bool = True
    """The last timestep is pure noise, exactly."""

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise UserError(f"num_train_timesteps={self.num_train_timesteps} is below the smallest legal value, 2")
        if not 0 < self.beta_start <= self.beta_end < 1:
            betas = f"beta_start={self.beta_start} and beta_end={self.beta_end}"
            raise UserError(f"{betas} make no schedule: 0 < beta_start <= beta_end < 1 has to hold")
        if not self.snr_shift_scale > 0:
            raise UserError(f"snr_shift_scale={self.snr_shift_scale} is not above 0; 1.0 shifts nothing")

    @classmethod
    def from_diffusers(cls: type[Config], data: Mapping[str, Any]) -> Config:
        """Read the content of a `scheduler_config.json` of either CogVideoX scheduler of diffusers.

        Raises:
            UserError: another scheduler, an unknown key, or a setting that the samplers here do not honour.
        """
        if data.get("_class_name") not in SAMPLER_OF_SCHEDULER:
            known = " or ".join(SAMPLER_OF_SCHEDULER)
            raise UserError(
                f"the scheduler config is for {data.get('_class_name')!r}, but a CogVideoX model has a {known}"
            )
        own = {key: value for key, value in {**_DIFFUSERS_DEFAULTS, **data}.items() if not key.startswith("_")}
        for key, supported in {**_FIXED, **_WITHOUT_EFFECT}.items():
            value = own.pop(key, supported)
            if key in _FIXED and value != supported:
                raise UserError(f"the scheduler config sets {key}={value!r}, but only {supported!r} is supported")
        return from_dict(cls, own, where="the scheduler config")

    def to_diffusers(self, sampler: Sampler) -> dict[str, Any]:
        """The content of the `scheduler_config.json` from which diffusers makes this schedule and that sampler."""
        return {"_class_name": DIFFUSERS_CLASSES[sampler], **asdict(self), **_FIXED, **_WITHOUT_EFFECT}


PRESETS: dict[str, Callable[[], ScheduleConfig]] = {
    "2b": ScheduleConfig,
    "5b": lambda: ScheduleConfig(snr_shift_scale=1.0),
    "5b-i2v": lambda: ScheduleConfig(snr_shift_scale=1.0),
    "1.5-5b": lambda: ScheduleConfig(snr_shift_scale=1.0),
    "1.5-5b-i2v": lambda: ScheduleConfig(snr_shift_scale=1.0),
}
"""The five official models."""
