"""From noise to data. A sampler is a function over a prediction and an explicit list of timesteps.

`predict(x, t, i)` answers with the velocity at the state `x` [b c t h w], timestep `t` and step index `i` (for tables
that hold a row per step); guidance is its business. `times` descend from noise to data, and the step from the last of
them ends at clean data. Coefficients are Python floats, in float64, and the state is float32 whatever the network
computes in. Nothing in a loop waits for the device.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule

Predict = Callable[[Tensor, int, int], Tensor]
OnStep = Callable[[int, int, int, Tensor], None]  # step index, number of steps, timestep, estimate of the clean data
Generators = torch.Generator | Sequence[torch.Generator]  # one for the batch, or one for each sample


def initial_noise(
    shape: Sequence[int], generator: Generators, device: torch.device | str | None = None
) -> Float[Tensor, "b c t h w"]:
    """Standard normal noise of `shape` [b c t h w] in float32; with the same seed, that of diffusers in float32.

    Diffusers keeps time before channels, so the numbers are drawn in that order. They are drawn on the generator's
    device and moved to `device`: with a CPU generator a seed gives the same video on every device. With a list of
    generators, sample i of the batch is what generator i gives alone.

    Raises:
        ValueError: a list with another number of generators than samples.
    """
    b, c, t, h, w = shape
    if isinstance(generator, torch.Generator):
        noise = torch.randn(b, t, c, h, w, generator=generator, device=generator.device)
    elif len(generator) == b:
        noise = torch.cat([torch.randn(1, t, c, h, w, generator=one, device=one.device) for one in generator])
    else:
        raise ValueError(f"{len(generator)} generators for {b} samples: give one for each sample, or one for all.")
    noise = rearrange(noise, "b t c h w -> b c t h w").contiguous()
    device = torch.device(device) if device is not None else noise.device
    if device.type == "cuda" and noise.device.type == "cpu":
        return noise.pin_memory().to(device, non_blocking=True)  # from pageable memory the copy would wait for the GPU
    return noise.to(device)


def ddim(
    predict: Predict,
    x: Float[Tensor, "b c t h w"],
    times: Sequence[int],
    schedule: Schedule,
    *,
    generator: Generators | None = None,
    eta: float = 0.0,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b c t h w"]:
    """DDIM (Song et al. 2021, equations 12 and 16): deterministic for `eta` 0, ancestral sampling for 1.

    `generator` is used only where `eta` is above 0. Raises ValueError if it is missing then, `eta` is not in 0 to 1, or
    `times` do not descend.
    """
    steps, x = _steps(times, schedule), x.float()
    _check_eta(eta, generator)
    for i, (t, alpha, sigma, alpha_next, sigma_next) in enumerate(steps):
        v = predict(x, t, i).float()
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        added = eta * (sigma_next / sigma) * math.sqrt(1 - (alpha / alpha_next) ** 2)
        x = alpha_next * x0 + math.sqrt(sigma_next**2 - added**2) * eps
        if added > 0 and generator is not None:
            x = x + added * _noise_like(x, generator)
        if on_step is not None:
            on_step(i, len(steps), t, x0)
    return x


def dpmpp_2m(
    predict: Predict,
    x: Float[Tensor, "b c t h w"],
    times: Sequence[int],
    schedule: Schedule,
    *,
    generator: Generators | None = None,
    eta: float = 1.0,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b c t h w"]:
    """DPM-Solver++(2M) (Lu et al. 2022): for `eta` 1 the stochastic one, "VPSDE DPM++ 2M" of the official code, for 0
    the deterministic one, and in between as much fresh noise in each step as `eta` says.

    h is the length of a step in lambda = log(alpha / sigma). The estimate of the data is extrapolated along lambda from
    the last two, except in the first step, in the last, which returns the estimate, and after a step from pure noise,
    which is infinitely long. `generator` is used only where `eta` is above 0. Raises ValueError if it is missing then,
    `eta` is not in 0 to 1, or `times` do not descend.
    """
    steps, x = _steps(times, schedule), x.float()
    _check_eta(eta, generator)
    x0_before, h_before = x, math.inf
    for i, (t, alpha, sigma, alpha_next, sigma_next) in enumerate(steps):
        v = predict(x, t, i).float()
        x0 = alpha * x - sigma * v
        shrink = (alpha * sigma_next) / (sigma * alpha_next)  # e^-h: 0 from pure noise and to clean data
        h = -math.log(shrink) if shrink > 0 else math.inf
        data = x0
        if 0 < i < len(steps) - 1:
            data = x0 + h / (2 * h_before) * (x0 - x0_before)
            if eta > 0 and generator is not None:
                # The official code and diffusers make the first-order step too; its noise is gone from the generator.
                _noise_like(x, generator)
        x = (sigma_next / sigma) * shrink**eta * x + alpha_next * (1 - shrink ** (1 + eta)) * data
        if eta > 0 and generator is not None:
            x = x + sigma_next * math.sqrt(1 - shrink ** (2 * eta)) * _noise_like(x, generator)
        x0_before, h_before = x0, h
        if on_step is not None:
            on_step(i, len(steps), t, x0)
    return x


SAMPLERS: dict[str, Callable[..., Float[Tensor, "b c t h w"]]] = {"ddim": ddim, "dpm++": dpmpp_2m}
"""By the names that users type."""


def ddim_invert(
    predict: Predict,
    x: Float[Tensor, "b c t h w"],
    times: Sequence[int],
    schedule: Schedule,
    *,
    on_step: OnStep | None = None,
) -> list[Float[Tensor, "b c t h w"]]:
    """Deterministic DDIM backwards, from clean data to noise (Mokady et al. 2022, section 3).

    Each step takes the velocity at its beginning for that at its end, as the official code does, so going back is
    nearly, not exactly, the inverse. `times` are those of the sampler and descend; they are walked from their end.

    Returns:
        The state at each of `times`, in their order: the first is the noise that `x` comes from.

    Raises:
        ValueError: `times` do not descend.
    """
    steps, x, states = _steps(times, schedule), x.float(), []
    for i, (t, alpha, sigma, alpha_before, sigma_before) in reversed(list(enumerate(steps))):
        v = predict(x, t, i).float()
        x0, eps = alpha_before * x - sigma_before * v, sigma_before * x + alpha_before * v
        x = alpha * x0 + sigma * eps
        states.append(x)
        if on_step is not None:
            on_step(len(steps) - 1 - i, len(steps), t, x0)
    return states[::-1]


def _check_eta(eta: float, generator: Generators | None) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} is not in 0 (deterministic) to 1 (as stochastic as the sampler gets).")
    if eta > 0 and generator is None:
        raise ValueError(f"eta={eta} adds noise at each step and needs a generator.")


def _noise_like(x: Tensor, generator: Generators) -> Tensor:
    return initial_noise(x.shape, generator, x.device)


class _Step(NamedTuple):
    t: int
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float


def _steps(times: Sequence[int], schedule: Schedule) -> list[_Step]:
    """Each timestep with the signal and noise there and where its step ends; the last ends at clean data (1, 0)."""
    if not times or any(now <= after for now, after in pairwise(times)):
        raise ValueError(f"Timesteps must be one or more and descend: {list(times)}.")
    if times[0] >= schedule.num_train_timesteps or times[-1] < 0:
        raise ValueError(f"Timesteps must lie in 0 to {schedule.num_train_timesteps - 1}: {list(times)}.")
    abar = [*schedule.alphas_cumprod[list(times)].tolist(), 1.0]
    levels = [(math.sqrt(a), math.sqrt(1 - a)) for a in abar]
    return [_Step(t, *here, *there) for t, (here, there) in zip(times, pairwise(levels))]
