"""Chunk-parallel decoding without gradients: each rank decodes a chunk, with results identical to a single process.

A layer needs only the last two input frames of the previous chunk, and norm statistics are those of one chunk. So all
ranks compute the same layer at the same time, each for its own chunk, and send their last frames to the next rank.

Axes: b batch, z latent channels, lt lh lw latent frames, height and width; c channels, t frames, h w height and width.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from cogvideox import geometry
from cogvideox.parallel.collectives import all_gather, all_to_all
from cogvideox.vae.inference import sliced
from cogvideox.vae.inference.host_memory import DiskTensor
from cogvideox.vae.inference.sliced_cache import SlicedCache, Strip
from cogvideox.vae.model import CausalVAE


@torch.no_grad()
def decode_stream(
    vae: CausalVAE,
    z: Float[Tensor, "b z lt lh lw"],
    group: ProcessGroup,
    *,
    strips: int = 1,
    offload: bool = False,
) -> Iterator[Float[Tensor, "b c t h w"]]:
    """Decode like `CausalVAE.decode_stream`. On every rank, z and the yielded frames are complete."""
    chunks = z.split(geometry.decode_chunks(z.shape[2]), dim=2)
    if len(chunks) == 1:
        yield from vae.decode_stream(z, strips=strips, offload=offload)
        return
    size, rank = group.size(), group.rank()
    conv_cache = ChunkParallelCache(group, len(chunks), strips, offload)
    for first in range(0, len(chunks), size):
        current = chunks[first : first + size]
        # A rank without a chunk decodes the last one, because all ranks must call the collectives. Its result is
        # dropped.
        decoded = sliced.decode(vae.decoder, current[rank] if rank < len(current) else chunks[-1], conv_cache)
        frames = [geometry.FRAME_RATIO * chunk.shape[2] for chunk in current]
        if first == 0:
            frames[0] -= geometry.FRAME_RATIO - 1
        lengths = frames + [0] * (size - len(current))
        yield from all_gather(decoded[:, :, : lengths[rank]], lengths, 2, group).split(frames, dim=2)
        conv_cache.advance()


class ChunkParallelCache(SlicedCache):
    """Cache that receives the frames before this rank's chunk from the rank with the previous chunk.

    Chunks are assigned to ranks in turn, starting with rank 0. Every chunk has two latent frames or more.
    """

    def __init__(self, group: ProcessGroup, num_chunks: int, num_strips: int, offload: bool) -> None:
        super().__init__(num_strips, offload=offload, is_last=True)  # frames are sent to the next rank, not kept
        self.is_first = group.rank() == 0
        self._group = group
        self._num_remaining = num_chunks
        self._frames_for_next_chunk: dict[nn.Module, Tensor] = {}

    def advance(self, *, is_last: bool = False) -> None:
        self.is_first = False
        self._num_remaining -= self._group.size()

    def take_frames(self, conv: nn.Module, last_frames: Callable[[], list[Strip]]) -> list[Tensor | DiskTensor]:
        last = last_frames()
        before = self._exchange(torch.cat(last, dim=3), conv)
        return [] if self.is_first else list(before.split([strip.shape[3] for strip in last], dim=3))

    def _exchange(self, last: Strip, conv: nn.Module) -> Strip:
        """Send the last frames to the rank with the next chunk; return the last frames of the previous chunk."""
        size, rank = self._group.size(), self._group.rank()
        # Destination of the frames of each rank; ranks without a chunk send nothing.
        receiver = {r: r + 1 for r in range(min(self._num_remaining, size) - 1)}
        if self._num_remaining > size:
            receiver[size - 1] = 0
        empty = last[:, :, :0]
        parts = [last if receiver.get(rank) == r else empty for r in range(size)]
        shapes = [last.shape if receiver.get(r) == rank else empty.shape for r in range(size)]
        received = torch.cat(all_to_all(parts, shapes, self._group), dim=2)
        if rank > 0:
            return received if received.shape[2] else last
        before = self._frames_for_next_chunk.pop(conv, last)
        self._frames_for_next_chunk[conv] = received
        return before
