"""The diffusion loss of packed rows (Frame Pack, paper section 3.1), equal to the loss of the clips without packing.

The loss of a single clip, the MSE of the velocity or the noise, is defined in `diffusion.objective`.

The loss of a step is the mean over clips of the mean over each clip's elements, so a long clip weighs as much as an
image. Over rows and ranks, sum the losses of all clips and divide by the number of clips of the whole step.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.objective import add_noise, loss_per_sample, training_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.records import PackedBatch

PredictOutput = Callable[[Sequence[Tensor], Tensor, Tensor], Sequence[Tensor]]
"""Maps the noisy latents of each clip (with image latents appended on the channel axis), prompt embeddings and
timesteps to the network's outputs: `Transformer.forward_packed` or a wrapper around it."""


def clip_losses(predict: PredictOutput, batch: PackedBatch, schedule: Schedule) -> Float[Tensor, " s"]:
    """Compute the MSE of the network's output for each clip (`diffusion.objective`) in float32."""
    clips = [
        (x0[None], noise[None], t[None])
        for x0, noise, t in zip(batch.latents, batch.noise, batch.timestep, strict=True)
    ]
    noised = [add_noise(*clip, schedule)[0] for clip in clips]
    if batch.image is not None:
        noised = [torch.cat(pair) for pair in zip(noised, batch.image, strict=True)]
    outputs = predict(noised, batch.text, batch.timestep)
    return torch.cat(
        [loss_per_sample(output[None], training_target(*clip, schedule)) for output, clip in zip(outputs, clips)]
    )
