"""The loss of packed rows (frame pack, paper section 3.1), such that packing changes nothing but the time it takes.

A step's loss is the mean over its clips of the mean over each clip's elements. A long clip therefore weighs as much as
an image, and rows and ranks add up: sum the losses of all clips, divide by the number of clips of the whole step.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.records import PackedBatch

Predict = Callable[[Sequence[Tensor], Tensor, Tensor], Sequence[Tensor]]
"""Noised latents of each clip (with an image, its latents follow on the channel axis), texts and timesteps to
velocities: `Transformer.forward_packed`, or what is wrapped around it."""


def clip_losses(predict: Predict, batch: PackedBatch, schedule: Schedule) -> Float[Tensor, " s"]:
    """The mean squared error of the velocity of each clip (`diffusion.objective`), in float32."""
    clips = [
        (x0[None], noise[None], t[None])
        for x0, noise, t in zip(batch.latents, batch.noise, batch.timestep, strict=True)
    ]
    noised = [add_noise(*clip, schedule)[0] for clip in clips]
    if batch.image is not None:
        noised = [torch.cat(pair) for pair in zip(noised, batch.image, strict=True)]
    predicted = predict(noised, batch.text, batch.timestep)
    return torch.cat([loss_per_sample(v[None], v_target(*clip, schedule)) for v, clip in zip(predicted, clips)])
