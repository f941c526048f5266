"""Losses told apart by their timestep, in ten equal parts of the range: a loss of all of them hides which noise it is
that a model has not learned."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_BINS = 10


def sums(losses: Float[Tensor, " n"], timesteps: Int[Tensor, " n"], num_timesteps: int) -> Float[Tensor, "bins 2"]:
    """For each part of the range, from the cleanest to the noisiest, the sum of its losses and their number."""
    losses = losses.detach()
    bins = timesteps * NUM_BINS // num_timesteps
    pairs = torch.stack((losses, torch.ones_like(losses)), dim=1)
    return torch.zeros(NUM_BINS, 2, device=losses.device).index_add_(0, bins, pairs)


def means(sums: Float[Tensor, "bins 2"], prefix: str = "") -> dict[str, float]:
    """ "loss_0" (cleanest) to "loss_9" (noisiest) of those parts that occur, behind a prefix such as "validation/".

    Waits for the device.
    """
    return {f"{prefix}loss_{k}": total / count for k, (total, count) in enumerate(sums.tolist()) if count > 0}


def spread(num: int, num_timesteps: int) -> Int[Tensor, " num"]:
    """A timestep for each of some clips to be measured at: the middles of so many equal intervals of the range, so that
    a part of it always holds the same clips."""
    return ((torch.arange(num) + 0.5) * num_timesteps / num).long()


def validation(losses: Float[Tensor, " n"], timesteps: Int[Tensor, " n"], num_timesteps: int) -> dict[str, float]:
    """ "validation/loss", and that of each part of the range."""
    parts = means(sums(losses, timesteps, num_timesteps), "validation/")
    return {"validation/loss": losses.mean().item(), **parts}
