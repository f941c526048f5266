"""A rank's shard of a VAE training step: the whole batch, some of its clips, or some of their frames.

Data-parallel ranks have different clips. Context-parallel ranks have different frames of the same clips (paper section
2.1; `parallel.vae_context_parallel`). Losses are weighted so that their mean over all ranks equals the loss of a single
process.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.vae_context_parallel import HaloCache, frames_per_rank, latents_per_rank, local_frames
from cogvideox.training.vae.data import VAEBatch
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.vae.losses.vae_loss import RankShares

MakeCache = Callable[[], ConvCache] | None
"""Creates the convolution cache of a network. None: the VAE splits clips into chunks."""


@dataclass(frozen=True)
class StepShard:
    """One rank's shard of a step.

    Attributes:
        batch: this rank's clips, or its frames of them.
        num_frames: number of frames of a whole clip.
        num_ranks: number of ranks over which the frames of the clips are split.
        shares: weights of this rank's losses.
        pixel_cache, latent_cache: create convolution caches for networks with pixel inputs and with latent inputs.
    """

    batch: VAEBatch
    num_frames: int
    num_ranks: int = 1
    shares: RankShares = RankShares()  # noqa: RUF009 - immutable
    pixel_cache: MakeCache = None
    latent_cache: MakeCache = None


def shard_step(batch: VAEBatch, ranks: Ranks | None, *, whole_clips: bool) -> StepShard:
    """Return this rank's shard of a batch. Images are split over all ranks if the number of images is divisible.

    Raises:
        UserError: the number of clips is not divisible by the data-parallel size, or the clips have too few frames.
    """
    num_frames, conv_cache = batch.pixels.shape[2], ConvCache if whole_clips else None
    if ranks is None:
        return StepShard(batch, num_frames, pixel_cache=conv_cache, latent_cache=conv_cache)
    if num_frames == 1 and len(batch.pixels) % ranks.size == 0:
        return StepShard(
            _every_nth_clip(batch, ranks.rank, ranks.size), 1, pixel_cache=conv_cache, latent_cache=conv_cache
        )
    batch = _every_nth_clip(batch, ranks.data.rank(), ranks.data.size())
    size, rank = ranks.sequence.size(), ranks.sequence.rank()
    if num_frames == 1 or size == 1:
        return StepShard(batch, num_frames, pixel_cache=conv_cache, latent_cache=conv_cache)
    lengths = latents_per_rank(batch.noise.shape[2], size)
    frames = frames_per_rank(lengths)
    start = sum(frames[:rank])
    frame_indices = batch.frames - torch.tensor([0, start], device=batch.frames.device)
    frame_indices = frame_indices[(frame_indices[:, 1] >= 0) & (frame_indices[:, 1] < frames[rank])]
    shares = RankShares(
        pixels=size * frames[rank] / num_frames,
        latents=size * lengths[rank] / sum(lengths),
        frames=size * len(frame_indices) / len(batch.frames),
    )
    local_batch = VAEBatch(
        local_frames(batch.pixels, frames, rank), local_frames(batch.noise, lengths, rank), frame_indices
    )
    return StepShard(
        local_batch,
        num_frames,
        size,
        shares,
        pixel_cache=lambda: HaloCache(ranks.sequence, frames),
        latent_cache=lambda: HaloCache(ranks.sequence, lengths),
    )


def mean_over_ranks(ranks: Ranks | None) -> Callable[[Tensor], Tensor]:
    """Return a function that averages a tensor over all ranks; the identity for a single process."""
    if ranks is None:
        return lambda x: x

    def mean(x: Tensor) -> Tensor:
        x = x.detach().clone()
        dist.all_reduce(x, group=ranks.world)
        return x / ranks.size

    return mean


def _every_nth_clip(batch: VAEBatch, rank: int, size: int) -> VAEBatch:
    """Return every `size`-th clip, starting with clip `rank`."""
    if len(batch.pixels) % size:
        raise UserError(
            f"a batch of {len(batch.pixels)} clips is not divisible by {size} data-parallel ranks: run.batch_size "
            f"(times images_per_clip, for batches of single frames) must be a multiple of {size}"
        )
    clip, frame = batch.frames[batch.frames[:, 0] % size == rank].unbind(1)
    return VAEBatch(batch.pixels[rank::size], batch.noise[rank::size], torch.stack([clip // size, frame], dim=1))
