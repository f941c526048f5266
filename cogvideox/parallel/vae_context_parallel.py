"""The VAE with time cut over ranks (paper section 2.1, "context parallelism"), forward and backward.

Every rank has a stretch of the frames. `HaloCache` is the `conv_cache` that fetches the frames before a stretch from
the ranks that have them and pools the norms' statistics over all ranks, so that the ranks together compute
what one would compute of the whole:

    lengths = latent_shares(num_latents, ranks.size)
    video = local_frames(video, frame_shares(lengths), ranks.rank)
    moments = vae.encoder(video, HaloCache(ranks.world, frame_shares(lengths)))
    video = vae.decoder(z, HaloCache(ranks.world, lengths))

Each network's pass needs a `HaloCache` of its own. The gradients are those of the sum of all ranks' losses: average
them over the ranks (`fsdp.average_gradients`), and a rank's loss counts as the sum over its frames times the number of
ranks over the number of all frames.

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
from cogvideox.parallel.collectives import exchange, gather_equal
from cogvideox.vae.conv_cache import ConvCache

Lengths = tuple[int, ...]


def latents_per_rank(num_latents: int, num_ranks: int) -> Lengths:
    """Latent frames of each rank. The first one of the video comes on top of rank 0's; the others are shared evenly.

    Raises:
        UserError: fewer latent frames after the first than ranks.
    """
    rest = num_latents - 1
    if rest < num_ranks and num_ranks > 1:
        needed = geometry.video_frames(num_ranks + 1)
        raise UserError(
            f"{geometry.format_frames(geometry.video_frames(num_latents))} are too few for {num_ranks} processes "
            f"in time: each needs {geometry.FRAME_RATIO} frames after the first one, "
            f"so take {needed} frames or fewer processes"
        )
    return tuple((r == 0) + rest * (r + 1) // num_ranks - rest * r // num_ranks for r in range(num_ranks))


def frames_per_rank(latents: Lengths) -> Lengths:
    """Frames of each rank, given its latent frames: (3, 2) -> (9, 8)."""
    return tuple(geometry.FRAME_RATIO * n - (geometry.FRAME_RATIO - 1) * (r == 0) for r, n in enumerate(latents))


def local_frames(x: Float[Tensor, "b c t h w"], lengths: Lengths, rank: int) -> Float[Tensor, "b c _t h w"]:
    """The stretch of this rank."""
    return x.split(lengths, dim=2)[rank]


class HaloCache(ConvCache):
    """A stretch of time between those of other ranks.

    Args:
        rounds: the lengths of all ranks, of what goes into the network: of the whole video, or of one piece of it after
            the other, with `advance()` between them. Rank 0 has the first frame and at least one latent frame more.
    """

    def __init__(self, group: ProcessGroup, *rounds: Lengths) -> None:
        self.is_first = group.rank() == 0
        self._group = group
        self._rank = group.rank()
        self._rounds = list(rounds)
        self._tails: dict[nn.Module, Tensor] = {}
        self._begins = True  # the first round, with the video's first frame

    def prepend(self, layer: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        lengths = self._lengths(x)
        ends = list(accumulate(lengths))
        # Counted from the beginning of this round: the frames that a rank can give, and those that it lacks.
        has = [range(end - n, end) for end, n in zip(ends, lengths)]
        has[0] = range(-num_frames, lengths[0])
        lacks = [range(own.start - num_frames, own.start) for own in has]
        # Rank 0 begins the next round, after the end of this one.
        lacks[0] = range(ends[-1] - num_frames, ends[-1]) if len(self._rounds) > 1 else range(0)

        known, own = x, has[self._rank]
        if self._rank == 0:
            before = x[:, :, :1].expand(-1, -1, num_frames, -1, -1) if self._begins else self._tails.pop(layer)
            known = torch.cat([before, x], dim=2)
        parts = [known[:, :, part.start - own.start : part.stop - own.start] for part in (_both(own, r) for r in lacks)]
        counts = [len(_both(theirs, lacks[self._rank])) for theirs in has]
        shapes = [(*x.shape[:2], count, *x.shape[3:]) for count in counts]
        received = torch.cat(exchange(parts, shapes, self._group), dim=2)
        if self._rank == 0 and len(self._rounds) > 1:
            self._tails[layer] = received
            return known
        # Rank 0 has received nothing, but what it gave away is differentiated with what it received.
        return torch.cat([received, known], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        exact = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        groups = rearrange(exact, "b (g c) t h w -> b g (c t h w)", g=num_groups)
        variances, means = gather_equal(torch.stack(torch.var_mean(groups, -1, correction=0)), self._group).unbind(1)
        lengths = self._lengths(x)
        shares = [n / sum(lengths) for n in lengths]
        mean = torch.stack([share * m for share, m in zip(shares, means)]).sum(0)
        spreads = variances + (means - mean).square()
        variance = torch.stack([share * spread for share, spread in zip(shares, spreads)]).sum(0)
        each = x.shape[1] // num_groups
        mean, inverse = (m.repeat_interleave(each, dim=1) for m in (mean, (variance + eps).rsqrt()))
        scale = weight * inverse
        shift = bias - mean * scale
        # One multiplication and addition: no other feature map is kept for the way back.
        return torch.addcmul(shift[..., None, None, None], exact, scale[..., None, None, None]).to(x.dtype)

    def advance(self, *, is_last: bool = False) -> None:
        """The next round follows."""
        self._rounds.pop(0)
        self._begins = self.is_first = False

    def _lengths(self, x: Float[Tensor, "b c t h w"]) -> Lengths:
        """The lengths of all ranks at the frame rate of x: layers halve and double time, but for the first frame."""
        lengths = self._rounds[0]
        firsts = [int(self._begins and r == 0) for r in range(len(lengths))]
        first = firsts[self._rank]
        rate = Fraction(x.shape[2] - first, lengths[self._rank] - first)
        return tuple(int((n - one) * rate) + one for n, one in zip(lengths, firsts))


def _both(one: range, other: range) -> range:
    """The frames of two stretches; nothing, at the beginning of the first, where they do not meet."""
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return range(start, stop) if start < stop else range(one.start, one.start)
