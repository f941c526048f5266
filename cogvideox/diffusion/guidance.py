"""Classifier-free guidance (Ho & Salimans 2022, equation 6): scale schedules, and the guided prediction."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Guidance = Callable[[int], float]  # training timestep (0 to 999) -> scale


def constant(scale: float) -> Guidance:
    """Return a constant scale. At scale 1 the unconditional prediction has no weight and can be skipped."""
    return lambda t: scale


def dynamic(scale: float, num_steps: int) -> Guidance:
    """Return the official "dynamic" guidance: 1 + scale (1 - cos(pi ((num_steps - t) / num_steps)^5)) / 2.

    As a function of the step index, the scale would rise smoothly from 1 to 1 + scale. But both official code bases use
    the training timestep (999 to 19) as t, so the scale oscillates between 1 and 1 + scale. This function reproduces
    that; `smooth` rises as intended.
    """
    return lambda t: 1 + scale * (1 - math.cos(math.pi * ((num_steps - t) / num_steps) ** 5)) / 2


def smooth(scale: float, num_timesteps: int = 1000) -> Guidance:
    """Return the schedule that "dynamic" intends: a smooth rise from 1 at pure noise to 1 + scale at clean data."""
    return lambda t: 1 + scale * (1 - math.cos(math.pi * ((num_timesteps - 1 - t) / (num_timesteps - 1)) ** 5)) / 2


def combine(cond: Float[Tensor, "*shape"], uncond: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """Return the guided prediction uncond + scale (cond - uncond) in float32, for v, x0 or eps."""
    cond, uncond = cond.float(), uncond.float()
    return uncond + scale * (cond - uncond)
