"""What this process works on of a step of a VAE run: all of it, some of its clips, or a stretch of their frames.

With several processes, those of a data group have clips of their own, and those of a sequence group share clips, each a
stretch of time (paper section 2.1, "context parallelism"; `parallel.vae_context_parallel`). Everything is weighted so
that the mean over all processes is what one would compute alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.vae_context_parallel import HaloCache, frames_per_rank, latents_per_rank, local_frames
from cogvideox.training.vae.data import Batch
from cogvideox.vae.conv_cache import ConvCache
from cogvideox.vae.losses.vae_loss import RankShares

MakeCache = Callable[[], ConvCache] | None
"""Makes what a network is told of the frames before these; None: the VAE cuts time into its own chunks."""


@dataclass(frozen=True)
class Part:
    """A part of a step.

    pixel_cache, latent_cache: for networks that take pixels, and that take latents.
    num_frames: of the whole clips. num_ranks: how many processes share them.
    """

    batch: Batch
    num_frames: int
    num_ranks: int = 1
    shares: RankShares = RankShares()  # noqa: RUF009 - it never changes
    pixel_cache: MakeCache = None
    latent_cache: MakeCache = None


def part_of(batch: Batch, ranks: Ranks | None, *, whole_clips: bool) -> Part:
    """This process's part of a step. Of images, which have no time to share, each process has some if they can be
    shared evenly.

    Raises:
        UserError: clips that cannot be shared evenly among the data groups, or are too short for the processes.
    """
    num_frames, conv_cache = batch.pixels.shape[2], ConvCache if whole_clips else None
    if ranks is None:
        return Part(batch, num_frames, pixel_cache=conv_cache, latent_cache=conv_cache)
    if num_frames == 1 and len(batch.pixels) % ranks.size == 0:
        return Part(_rows(batch, ranks.rank, ranks.size), 1, pixel_cache=conv_cache, latent_cache=conv_cache)
    batch = _rows(batch, ranks.data.rank(), ranks.data.size())
    size, rank = ranks.sequence.size(), ranks.sequence.rank()
    if num_frames == 1 or size == 1:
        return Part(batch, num_frames, pixel_cache=conv_cache, latent_cache=conv_cache)
    lengths = latents_per_rank(batch.noise.shape[2], size)
    frames = frames_per_rank(lengths)
    start = sum(frames[:rank])
    chosen = batch.frames - torch.tensor([0, start], device=batch.frames.device)
    mine = chosen[(chosen[:, 1] >= 0) & (chosen[:, 1] < frames[rank])]
    shares = RankShares(
        size * frames[rank] / num_frames, size * lengths[rank] / sum(lengths), size * len(mine) / len(batch.frames)
    )
    stretch = Batch(local_frames(batch.pixels, frames, rank), local_frames(batch.noise, lengths, rank), mine)
    return Part(
        stretch,
        num_frames,
        size,
        shares,
        pixel_cache=lambda: HaloCache(ranks.sequence, frames),
        latent_cache=lambda: HaloCache(ranks.sequence, lengths),
    )


def mean_over(ranks: Ranks | None) -> Callable[[Tensor], Tensor]:
    """The mean of a tensor over all processes; alone, the tensor."""
    if ranks is None:
        return lambda x: x

    def mean(x: Tensor) -> Tensor:
        x = x.detach().clone()
        dist.all_reduce(x, group=ranks.world)
        return x / ranks.size

    return mean


def _rows(batch: Batch, rank: int, size: int) -> Batch:
    """Every `size`-th clip, from number `rank` on."""
    if len(batch.pixels) % size:
        raise UserError(
            f"a batch of {len(batch.pixels)} cannot be shared evenly by {size} groups of processes: run.batch_size, "
            "times images_per_clip in steps of images, has to be a multiple"
        )
    mine = batch.frames[batch.frames[:, 0] % size == rank]
    clip, frame = mine.unbind(1)
    return Batch(batch.pixels[rank::size], batch.noise[rank::size], torch.stack([clip // size, frame], dim=1))
