"""Context parallelism of the VAE: frames split over ranks, forward and backward (paper section 2.1).

Each rank has a contiguous part of the frames. `HaloCache` is a `conv_cache` (see `vae.causal_conv`) that
receives the frames before this part from other ranks (halo exchange) and computes norm statistics over all ranks, so
that results equal those of a single process:

    lengths = latents_per_rank(num_latents, ranks.size)
    video = local_frames(video, frames_per_rank(lengths), ranks.rank)
    moments = vae.encoder(video, HaloCache(ranks.world, frames_per_rank(lengths)))
    video = vae.decoder(z, HaloCache(ranks.world, lengths))

Each pass through a network needs a new `HaloCache`. Gradients are those of the sum of the losses of all ranks: average
them over the ranks (`parallelize.average_gradients`). For a loss that is a mean over all frames, each rank sums the
loss of its own frames, multiplied by the number of ranks and divided by the number of all frames.

Axes: b batch, c channels, t frames, h w height and width; latents have z channels and lt, lh, lw.
"""

from fractions import Fraction
from itertools import accumulate

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.parallel.collectives import all_gather_stack, all_to_all
from cogvideox.vae.causal_conv import ConvCache

Lengths = tuple[int, ...]
"""Number of frames of each rank."""


def latents_per_rank(num_latents: int, num_ranks: int) -> Lengths:
    """Return the number of latent frames of each rank. The first one is on rank 0, and the others are split evenly.

    Raises:
        UserError: the number of latent frames after the first is less than the number of ranks.
    """
    num_split = num_latents - 1
    if num_split < num_ranks and num_ranks > 1:
        needed = geometry.video_frames(num_ranks + 1)
        raise UserError(
            f"{geometry.format_frame_count(geometry.video_frames(num_latents))} are too few for context parallelism "
            f"on {num_ranks} processes, each of which needs {geometry.FRAME_RATIO} frames after the first one: "
            f"use {needed} frames or fewer processes"
        )
    return tuple((r == 0) + num_split * (r + 1) // num_ranks - num_split * r // num_ranks for r in range(num_ranks))


def frames_per_rank(latents: Lengths) -> Lengths:
    """Return the number of frames of each rank, from its latent frames: (3, 2) -> (9, 8)."""
    return tuple(geometry.FRAME_RATIO * n - (geometry.FRAME_RATIO - 1) * (r == 0) for r, n in enumerate(latents))


def local_frames(x: Float[Tensor, "b c t h w"], lengths: Lengths, rank: int) -> Float[Tensor, "b c _t h w"]:
    """Return this rank's part of the frames."""
    return x.split(lengths, dim=2)[rank]


class HaloCache(ConvCache):
    """The `conv_cache` of one rank's part of the frames, with halo exchange.

    Args:
        rounds: number of input frames of each rank, for each part of the video that is processed in one pass (usually
            a single part, the whole video). Call `advance()` between parts. Rank 0 has the first frame and at least
            one more latent frame.
    """

    def __init__(self, group: ProcessGroup, *rounds: Lengths) -> None:
        self.is_first = group.rank() == 0
        self._group = group
        self._rank = group.rank()
        self._rounds = list(rounds)
        self._frames: dict[nn.Module, Tensor] = {}
        self._is_first_round = True

    def pad_time(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        lengths = self._lengths(x)
        ends = list(accumulate(lengths))
        # Indices of the frames that each rank has and needs, from the start of this round.
        has = [range(end - n, end) for end, n in zip(ends, lengths)]
        has[0] = range(-num_frames, lengths[0])
        needs = [range(frames.start - num_frames, frames.start) for frames in has]
        # Rank 0 needs the end of this round for the start of the next one.
        needs[0] = range(ends[-1] - num_frames, ends[-1]) if len(self._rounds) > 1 else range(0)

        known, own = x, has[self._rank]
        if self._rank == 0:
            before = x[:, :, :1].expand(-1, -1, num_frames, -1, -1) if self._is_first_round else self._frames.pop(conv)
            known = torch.cat([before, x], dim=2)
        sent = [_overlap(own, needed) for needed in needs]
        parts = [known[:, :, part.start - own.start : part.stop - own.start] for part in sent]
        counts = [len(_overlap(frames, needs[self._rank])) for frames in has]
        shapes = [(*x.shape[:2], count, *x.shape[3:]) for count in counts]
        received = torch.cat(all_to_all(parts, shapes, self._group), dim=2)
        if self._rank == 0 and len(self._rounds) > 1:
            self._frames[conv] = received
            return known
        # Rank 0 receives nothing here, but the concatenation keeps the sent frames in the autograd graph.
        return torch.cat([received, known], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        exact = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        groups = rearrange(exact, "b (g c) t h w -> b g (c t h w)", g=num_groups)
        local_stats = torch.stack(torch.var_mean(groups, -1, correction=0))
        variances, means = all_gather_stack(local_stats, self._group).unbind(1)
        lengths = self._lengths(x)
        fractions = [n / sum(lengths) for n in lengths]
        mean = torch.stack([fraction * m for fraction, m in zip(fractions, means)]).sum(0)
        deviations = variances + (means - mean).square()
        variance = torch.stack([fraction * deviation for fraction, deviation in zip(fractions, deviations)]).sum(0)
        group_size = x.shape[1] // num_groups
        mean, inverse_std = (m.repeat_interleave(group_size, dim=1) for m in (mean, (variance + eps).rsqrt()))
        scale = weight * inverse_std
        shift = bias - mean * scale
        # A multiply-add saves no additional feature map for the backward pass.
        return torch.addcmul(shift[..., None, None, None], exact, scale[..., None, None, None]).to(x.dtype)

    def advance(self, *, is_last: bool = False) -> None:
        """Continue with the next round."""
        self._rounds.pop(0)
        self._is_first_round = self.is_first = False

    def _lengths(self, x: Float[Tensor, "b c t h w"]) -> Lengths:
        """Return the number of frames of each rank at the frame rate of x, which layers halve or double."""
        lengths = self._rounds[0]
        fixed = [int(self._is_first_round and r == 0) for r in range(len(lengths))]  # the first frame
        own_fixed = fixed[self._rank]
        rate = Fraction(x.shape[2] - own_fixed, lengths[self._rank] - own_fixed)
        return tuple(int((n - num_fixed) * rate) + num_fixed for n, num_fixed in zip(lengths, fixed))


def _overlap(a: range, b: range) -> range:
    """Return the frames in both ranges; if there are none, an empty range at the start of `a`."""
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return range(start, stop) if start < stop else range(a.start, a.start)
