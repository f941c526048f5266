"""Samplers: denoising loops as functions of a predictor and an explicit list of timesteps (paper section 3).

`predict(x, t, i)` returns the velocity at the state `x` [b c t h w], timestep `t` and step index `i` (for tables with a
row per step), guidance included. `timesteps` descend; the last step ends at clean data. Coefficients are
Python floats (float64), and the state is float32 whichever dtype the network uses. The loops never synchronize with the
device.

Axes: b batch, c latent channels, t latent frames, h w latent height and width.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.objective import v_to_eps, v_to_x0
from cogvideox.diffusion.schedule import Schedule

Predict = Callable[[Tensor, int, int], Tensor]
OnStep = Callable[[int, int, int, Tensor], None]  # step index, number of steps, timestep, predicted x0
Generators = torch.Generator | Sequence[torch.Generator]  # one for the batch, or one per sample


def initial_noise(
    shape: Sequence[int], generator: Generators, device: torch.device | str | None = None
) -> Float[Tensor, "b c t h w"]:
    """Return standard normal noise of `shape` [b c t h w] in float32, equal to that of diffusers with the same seed.

    Noise is sampled with time before channels, as in diffusers. It is sampled on the device of the generator and then
    moved to `device`, so that a CPU generator gives the same noise on every device. With a list of generators, sample i
    depends on generator i only.

    Raises:
        ValueError: the number of generators differs from the number of samples.
    """
    b, c, t, h, w = shape
    if isinstance(generator, torch.Generator):
        noise = torch.randn(b, t, c, h, w, generator=generator, device=generator.device)
    elif len(generator) == b:
        noise = torch.cat([torch.randn(1, t, c, h, w, generator=g, device=g.device) for g in generator])
    else:
        raise ValueError(f"got {len(generator)} generators for {b} samples: pass one per sample or a single one.")
    noise = rearrange(noise, "b t c h w -> b c t h w").contiguous()
    device = torch.device(device) if device is not None else noise.device
    if device.type == "cuda" and noise.device.type == "cpu":
        return noise.pin_memory().to(device, non_blocking=True)  # a copy from pageable memory would synchronize
    return noise.to(device)


def ddim(
    predict: Predict,
    x: Float[Tensor, "b c t h w"],
    timesteps: Sequence[int],
    schedule: Schedule,
    *,
    generator: Generators | None = None,
    eta: float = 0.0,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b c t h w"]:
    """DDIM (Song et al. 2021, equations 12 and 16): deterministic for `eta` 0, ancestral sampling for `eta` 1.

    Args:
        generator: source of noise, used only if `eta` > 0.

    Raises:
        ValueError: `eta` is not between 0 and 1, `generator` is missing, or `timesteps` do not descend.
    """
    steps, x = _steps(timesteps, schedule), x.float()
    _check_eta(eta, generator)
    for i, (t, alpha, sigma, alpha_next, sigma_next) in enumerate(steps):
        v = predict(x, t, i).float()
        x0, eps = v_to_x0(v, x, alpha, sigma), v_to_eps(v, x, alpha, sigma)
        sigma_up = eta * (sigma_next / sigma) * math.sqrt(1 - (alpha / alpha_next) ** 2)
        x = alpha_next * x0 + math.sqrt(sigma_next**2 - sigma_up**2) * eps
        if sigma_up > 0 and generator is not None:
            x = x + sigma_up * _noise_like(x, generator)
        if on_step is not None:
            on_step(i, len(steps), t, x0)
    return x


def dpmpp_2m(
    predict: Predict,
    x: Float[Tensor, "b c t h w"],
    timesteps: Sequence[int],
    schedule: Schedule,
    *,
    generator: Generators | None = None,
    eta: float = 1.0,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b c t h w"]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the SDE version for `eta` 1, the ODE version for `eta` 0.

    `eta` 1 is the "VPSDE DPM++ 2M" sampler of the official code; values between 0 and 1 scale the noise of each step.

    h is the step size in lambda = log(alpha / sigma). The predicted x0 is extrapolated in lambda from the last two
    predictions, except in the first step, in the last step (which returns the prediction) and after a step from pure
    noise (which has infinite h).

    Args:
        generator: source of noise, used only if `eta` > 0.

    Raises:
        ValueError: `eta` is not between 0 and 1, `generator` is missing, or `timesteps` do not descend.
    """
    steps, x = _steps(timesteps, schedule), x.float()
    _check_eta(eta, generator)
    x0_prev, h_prev = x, math.inf
    for i, (t, alpha, sigma, alpha_next, sigma_next) in enumerate(steps):
        v = predict(x, t, i).float()
        x0 = v_to_x0(v, x, alpha, sigma)
        exp_neg_h = (alpha * sigma_next) / (sigma * alpha_next)  # 0 from pure noise and to clean data
        h = -math.log(exp_neg_h) if exp_neg_h > 0 else math.inf
        extrapolated = x0
        if 0 < i < len(steps) - 1:
            extrapolated = x0 + h / (2 * h_prev) * (x0 - x0_prev)
            if eta > 0 and generator is not None:
                # Discarded, as in the official code and diffusers, where the unused first-order step also samples
                # noise.
                _noise_like(x, generator)
        x = (sigma_next / sigma) * exp_neg_h**eta * x + alpha_next * (1 - exp_neg_h ** (1 + eta)) * extrapolated
        if eta > 0 and generator is not None:
            x = x + sigma_next * math.sqrt(1 - exp_neg_h ** (2 * eta)) * _noise_like(x, generator)
        x0_prev, h_prev = x0, h
        if on_step is not None:
            on_step(i, len(steps), t, x0)
    return x


SAMPLERS: dict[str, Callable[..., Float[Tensor, "b c t h w"]]] = {"ddim": ddim, "dpm++": dpmpp_2m}
"""Samplers by the value of the option `sampler`."""


def ddim_invert(
    predict: Predict,
    x: Float[Tensor, "b c t h w"],
    timesteps: Sequence[int],
    schedule: Schedule,
    *,
    on_step: OnStep | None = None,
) -> list[Float[Tensor, "b c t h w"]]:
    """DDIM inversion: deterministic DDIM from clean data back to noise (Mokady et al. 2022, section 3).

    The inversion is approximate: like the official code, each step uses the velocity at its start instead of its end.

    Args:
        timesteps: timesteps of the sampler, descending; they are visited in reverse.

    Returns:
        The state at each of `timesteps`, in the same order: the first is the noise that leads to `x`.

    Raises:
        ValueError: `timesteps` do not descend.
    """
    steps, x, states = _steps(timesteps, schedule), x.float(), []
    for i, (t, alpha, sigma, alpha_prev, sigma_prev) in reversed(list(enumerate(steps))):
        v = predict(x, t, i).float()
        x0, eps = v_to_x0(v, x, alpha_prev, sigma_prev), v_to_eps(v, x, alpha_prev, sigma_prev)
        x = alpha * x0 + sigma * eps
        states.append(x)
        if on_step is not None:
            on_step(len(steps) - 1 - i, len(steps), t, x0)
    return states[::-1]


def _check_eta(eta: float, generator: Generators | None) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must be between 0 (deterministic) and 1 (fully stochastic).")
    if eta > 0 and generator is None:
        raise ValueError(f"eta={eta} adds noise at each step: pass a generator.")


def _noise_like(x: Tensor, generator: Generators) -> Tensor:
    return initial_noise(x.shape, generator, x.device)


class _Step(NamedTuple):
    t: int
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float


def _steps(timesteps: Sequence[int], schedule: Schedule) -> list[_Step]:
    """Return each timestep with alpha and sigma at the start and end of its step. The last step ends at clean data."""
    if not timesteps or any(t <= t_next for t, t_next in pairwise(timesteps)):
        raise ValueError(f"timesteps must be a non-empty descending list, got {list(timesteps)}.")
    if timesteps[0] >= schedule.num_train_timesteps or timesteps[-1] < 0:
        raise ValueError(f"timesteps must be between 0 and {schedule.num_train_timesteps - 1}, got {list(timesteps)}.")
    abar = [*schedule.alphas_cumprod[list(timesteps)].tolist(), 1.0]
    levels = [(math.sqrt(a), math.sqrt(1 - a)) for a in abar]
    return [_Step(t, *start, *end) for t, (start, end) in zip(timesteps, pairwise(levels))]
