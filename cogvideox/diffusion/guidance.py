"""Classifier-free guidance (Ho & Salimans 2022): how much, at which timestep, and how two predictions become one."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Guidance = Callable[[int], float]  # training timestep (0 .. 999) -> scale


def constant(scale: float) -> Guidance:
    """The same scale at every timestep. At 1 the unconditional prediction has no weight and need not be computed."""
    return lambda t: scale


def dynamic(scale: float, num_steps: int) -> Guidance:
    """The official "dynamic" guidance: 1 + scale (1 - cos(pi ((num_steps - t) / num_steps)^5)) / 2.

    Over the step index it would rise smoothly from 1 to 1 + scale. Both official code bases put the training timestep
    (999 down to 19) in place of t, so it swings between the two, and that is what it does here.
    """
    return lambda t: 1 + scale * (1 - math.cos(math.pi * ((num_steps - t) / num_steps) ** 5)) / 2


def smooth(scale: float, num_timesteps: int = 1000) -> Guidance:
    """What "dynamic" reads like: the same curve over how far the denoising has come, so that the scale rises from 1 at
    pure noise to 1 + scale at clean data, most of it near the end."""
    return lambda t: 1 + scale * (1 - math.cos(math.pi * ((num_timesteps - 1 - t) / (num_timesteps - 1)) ** 5)) / 2


def combine(cond: Float[Tensor, "*shape"], uncond: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """uncond + scale (cond - uncond), in float32. Linear, so the same on v, x0 and eps."""
    cond, uncond = cond.float(), uncond.float()
    return uncond + scale * (cond - uncond)
