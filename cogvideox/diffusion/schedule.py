"""The noise schedule: signal and noise level at each timestep (paper section 3).

A noisy sample at timestep t is x_t = alpha_t x_0 + sigma_t eps, with alpha_t^2 = abar_t and sigma_t^2 = 1 - abar_t.
Timestep 0 is almost clean; the last one, 999, is pure noise.
"""

from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from cogvideox.diffusion.config import ScheduleConfig


class Schedule(ScheduleConfig):
    """A noise schedule. Schedules with equal parameters are equal and have the same hash."""

    @cached_property
    def alphas_cumprod(self) -> Float64[Tensor, "timesteps"]:
        """abar of each timestep, on the CPU. Shift and rescaling do not commute; they have the official order."""
        betas = scaled_linear_betas(self.num_train_timesteps, self.beta_start, self.beta_end)
        abar = torch.cumprod(1 - betas, dim=0)
        abar = shift_snr(abar, self.snr_shift_scale)
        return zero_terminal_snr(abar) if self.rescale_betas_zero_snr else abar

    def signal_and_noise(
        self, t: Int[Tensor, "b"], like: Float[Tensor, "b *dims"]
    ) -> tuple[Float[Tensor, "b *ones"], Float[Tensor, "b *ones"]]:
        """Return alpha_t and sigma_t of each sample, broadcastable to `like`, on its device, in float32 or float64."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        shape = (-1, *(1,) * (like.ndim - 1))
        alphas, sigmas = _roots(self, like.device, dtype)
        t = t.to(like.device)
        return alphas[t].reshape(shape), sigmas[t].reshape(shape)


def scaled_linear_betas(num_timesteps: int, start: float, end: float) -> Float64[Tensor, "timesteps"]:
    """Return the variance added at each timestep; its square root is linear (Rombach et al. 2022; "linear" in SAT)."""
    return torch.linspace(start**0.5, end**0.5, num_timesteps, dtype=torch.float64, device="cpu") ** 2


def shift_snr(abar: Float64[Tensor, "timesteps"], scale: float) -> Float64[Tensor, "timesteps"]:
    """Divide the signal-to-noise ratio by `scale`, for large images (Hoogeboom et al. 2023, section 3.1)."""
    return abar / (scale + (1 - scale) * abar)


def zero_terminal_snr(abar: Float64[Tensor, "timesteps"]) -> Float64[Tensor, "timesteps"]:
    """Shift and scale sqrt(abar) so that the last timestep has zero SNR (Lin et al. 2023, Algorithm 1)."""
    root = abar.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


@lru_cache(maxsize=16)
def _roots(schedule: Schedule, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma of all timesteps, computed in float64 on the CPU, as not every device has float64."""
    abar = schedule.alphas_cumprod
    return abar.sqrt().to(dtype).to(device), (1 - abar).sqrt().to(dtype).to(device)
