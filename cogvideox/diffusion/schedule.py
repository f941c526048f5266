"""How much signal and how much noise there is at each timestep (paper section 3).

A noisy sample at timestep t is x_t = alpha_t x_0 + sigma_t eps, with alpha_t^2 = abar_t and sigma_t^2 = 1 - abar_t.
Timestep 0 is almost clean; the last one, 999, is pure noise.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from cogvideox.errors import UserError

# Our names of the two samplers, and the diffusers class that a folder names for each.
DIFFUSERS_CLASSES = {"ddim": "CogVideoXDDIMScheduler", "dpm++": "CogVideoXDPMScheduler"}

# Keys of `scheduler_config.json` that carry no choice here, with the only value that is supported.
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
class Schedule:
    """The noise schedule. Defaults are those of CogVideoX-2B; every other official model has `snr_shift_scale=1.0`.

    Raises:
        UserError: a value from which no schedule can be made.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift_scale: float = 3.0
    rescale_betas_zero_snr: bool = True

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise UserError(f"num_train_timesteps={self.num_train_timesteps} is below the smallest legal value, 2.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            betas = f"beta_start={self.beta_start} and beta_end={self.beta_end}"
            raise UserError(f"{betas} make no schedule: 0 < beta_start <= beta_end < 1 must hold.")
        if not self.snr_shift_scale > 0:
            raise UserError(f"snr_shift_scale={self.snr_shift_scale} is not above 0; 1.0 shifts nothing.")

    @cached_property
    def alphas_cumprod(self) -> Float64[Tensor, "timesteps"]:
        """abar for each timestep, on the CPU. Shift and rescale do not commute; this is the official order."""
        betas = scaled_linear_betas(self.num_train_timesteps, self.beta_start, self.beta_end)
        abar = torch.cumprod(1 - betas, dim=0)
        abar = shift_snr(abar, self.snr_shift_scale)
        return zero_terminal_snr(abar) if self.rescale_betas_zero_snr else abar

    def signal_and_noise(
        self, t: Int[Tensor, "b"], like: Float[Tensor, "b *dims"]
    ) -> tuple[Float[Tensor, "b *ones"], Float[Tensor, "b *ones"]]:
        """alpha_t and sigma_t of each sample, shaped to multiply `like`, on its device, in float32 or better."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        shape = (-1, *(1,) * (like.ndim - 1))
        alphas, sigmas = _roots(self, like.device, dtype)
        t = t.to(like.device)
        return alphas[t].reshape(shape), sigmas[t].reshape(shape)

    def log_snr(self, t: Int[Tensor, "*dims"]) -> Float64[Tensor, "*dims"]:
        """log(abar_t / (1 - abar_t)), on the CPU; -inf at the last timestep when the terminal SNR is zero."""
        return torch.logit(self.alphas_cumprod[t.cpu()])

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> "Schedule":
        """Read the content of a `scheduler_config.json` of either CogVideoX scheduler of diffusers.

        Raises:
            UserError: another scheduler, an unknown key, or a setting that the samplers here do not honour.
        """
        sampler_name(config)
        defaults = asdict(cls())
        known = [*defaults, *_FIXED, *_WITHOUT_EFFECT]
        chosen: dict[str, Any] = {}
        for key, value in {**_DIFFUSERS_DEFAULTS, **config}.items():
            if key in defaults:
                kind = type(defaults[key])
                if type(value) is not kind and not (kind is float and type(value) is int):
                    raise UserError(f"The scheduler config has {key}={value!r}, which is not of type {kind.__name__}.")
                chosen[key] = kind(value)
            elif key in _FIXED and value != _FIXED[key]:
                raise UserError(f"The scheduler config has {key}={value!r}, but only {_FIXED[key]!r} is supported.")
            elif key not in known and not key.startswith("_"):
                nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
                raise UserError(f"The scheduler config has the unknown key {key!r}; the nearest known is {nearest!r}.")
        return cls(**chosen)

    def to_diffusers(self, sampler: str = "ddim") -> dict[str, Any]:
        """The content of the `scheduler_config.json` from which diffusers makes this schedule and `sampler`.

        Raises:
            UserError: a sampler that diffusers has no CogVideoX scheduler for.
        """
        if sampler not in DIFFUSERS_CLASSES:
            raise UserError(f"There is no sampler {sampler!r}; there are {', '.join(map(repr, DIFFUSERS_CLASSES))}.")
        return {"_class_name": DIFFUSERS_CLASSES[sampler], **asdict(self), **_FIXED, **_WITHOUT_EFFECT}


def sampler_name(config: Mapping[str, Any]) -> str:
    """Our name of the sampler that a `scheduler_config.json` asks for: "ddim" or "dpm++".

    Raises:
        UserError: another class than the two CogVideoX schedulers of diffusers.
    """
    names = {class_name: name for name, class_name in DIFFUSERS_CLASSES.items()}
    class_name = config.get("_class_name")
    if class_name not in names:
        raise UserError(f"The scheduler config is for {class_name!r}; supported are {' and '.join(names)}.")
    return names[class_name]


def scaled_linear_betas(num_timesteps: int, start: float, end: float) -> Float64[Tensor, "timesteps"]:
    """Variances added per timestep, linear in their square root (Rombach et al. 2022; SAT calls it "linear")."""
    return torch.linspace(start**0.5, end**0.5, num_timesteps, dtype=torch.float64) ** 2


def shift_snr(abar: Float64[Tensor, "timesteps"], scale: float) -> Float64[Tensor, "timesteps"]:
    """Divide the signal-to-noise ratio by `scale`, as larger images need (Hoogeboom et al. 2023, section 3.1)."""
    return abar / (scale + (1 - scale) * abar)


def zero_terminal_snr(abar: Float64[Tensor, "timesteps"]) -> Float64[Tensor, "timesteps"]:
    """Move and stretch sqrt(abar) so that the last timestep has no signal at all (Lin et al. 2023, Algorithm 1)."""
    root = abar.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


@lru_cache(maxsize=16)
def _roots(schedule: Schedule, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tables of alpha and sigma. Rooted in float64 on the CPU, because not every device has float64."""
    abar = schedule.alphas_cumprod
    return abar.sqrt().to(dtype).to(device), (1 - abar).sqrt().to(dtype).to(device)
