"""Loss by timestep in ten equal bins: the mean over all timesteps hides at which noise levels a model is bad."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_BINS = 10


def bin_losses(
    losses: Float[Tensor, " n"], timesteps: Int[Tensor, " n"], num_timesteps: int
) -> Float[Tensor, "bins 2"]:
    """Return the sum and the number of the losses in each bin, from the cleanest timesteps to the noisiest."""
    losses = losses.detach()
    bins = timesteps * NUM_BINS // num_timesteps
    pairs = torch.stack((losses, torch.ones_like(losses)), dim=1)
    return torch.zeros(NUM_BINS, 2, device=losses.device).index_add_(0, bins, pairs)


def bin_means(sums: Float[Tensor, "bins 2"], prefix: str = "") -> dict[str, float]:
    """Return the mean loss of each bin that is not empty, as "loss_0" (cleanest) to "loss_9" (noisiest).

    Synchronizes with the device.

    Args:
        sums: as returned by `bin_losses`.
        prefix: prefix of the names, such as "validation/".
    """
    return {f"{prefix}loss_{k}": total / count for k, (total, count) in enumerate(sums.tolist()) if count > 0}


def spread_timesteps(num_clips: int, num_timesteps: int) -> Int[Tensor, " clips"]:
    """Return a timestep for each validation clip, evenly spaced: the midpoints of equal intervals."""
    return ((torch.arange(num_clips) + 0.5) * num_timesteps / num_clips).long()


def validation_metrics(
    losses: Float[Tensor, " n"], timesteps: Int[Tensor, " n"], num_timesteps: int
) -> dict[str, float]:
    """Return the mean loss as "validation/loss", and that of each bin."""
    bins = bin_means(bin_losses(losses, timesteps, num_timesteps), "validation/")
    return {"validation/loss": losses.mean().item(), **bins}
