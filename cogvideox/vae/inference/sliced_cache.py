"""The `conv_cache` of the VAE's forward pass without gradients: the frames before a chunk, in strips of rows.

Axes: b batch, c channels, t frames, h w height and width.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.vae.inference.convolutions import PreparedWeights
from cogvideox.vae.inference.host_memory import DiskTensor, to_host

Strip = Float[Tensor, "_b _c _t _h _w"]


class SlicedCache:
    """Cache for consecutive chunks of one video, each in strips of rows. Call `advance()` between chunks.

    Args:
        num_strips: number of strips, reduced to the number of latent rows if it is larger.
        offload: move strips that are not in use, and frames for the next chunk, from the GPU to pinned CPU memory. On
            the CPU, only the frames are moved, to temporary files.
        is_last: whether the first chunk is also the last one, so that no frames have to be kept.
        prepared_weights: keeps prepared weights of the convolutions; None prepares them in each call.

    Raises:
        UserError: `num_strips` is below 1.
    """

    def __init__(
        self,
        num_strips: int = 1,
        *,
        offload: bool = False,
        is_last: bool = False,
        prepared_weights: PreparedWeights | None = None,
    ) -> None:
        if num_strips < 1:
            raise UserError(f"strips={num_strips} must be 1 (whole frames) or more")
        self.is_first = True
        self.is_last = is_last
        self.prepared_weights = prepared_weights
        self.device = torch.device("cpu")
        self.edges: list[int] = []
        """Boundaries of the current chunk's strips, in latent rows."""
        self._num_strips = num_strips
        self._offload = offload
        self._frames: dict[nn.Module, list[Tensor | DiskTensor]] = {}

    def advance(self, *, is_last: bool = False) -> None:
        """Continue with the next chunk."""
        self.is_first, self.is_last = False, is_last

    def split(self, x: Float[Tensor, "b c t h w"], rows_per_latent: int) -> list[Strip]:
        """Cut a chunk into strips of whole latent rows, from top to bottom."""
        self.device = x.device
        latent_rows = x.shape[3] // rows_per_latent
        num_strips = min(self._num_strips, latent_rows)
        self.edges = [latent_rows * i // num_strips for i in range(num_strips + 1)]
        heights = [rows_per_latent * (stop - start) for start, stop in zip(self.edges, self.edges[1:])]
        return list(x.split(heights, dim=3))

    def join(self, strips: Sequence[Strip]) -> Float[Tensor, "b c t h w"]:
        """Concatenate strips; the inverse of `split`."""
        return torch.cat([self.load(strip) for strip in strips], dim=3).contiguous()

    def take_frames(self, conv: nn.Module, last_frames: Callable[[], list[Strip]]) -> list[Tensor | DiskTensor]:
        """Return the frames before this chunk that `conv` needs, in strips; an empty list in the first chunk.

        Args:
            last_frames: computes the last two input frames of `conv` in this chunk, for subclasses that send them to
                the next rank early. This class does not use it, because `keep_frames` stores the frames.
        """
        return self._frames.pop(conv, [])

    def keep_frames(self, conv: nn.Module, strips: list[Tensor | DiskTensor]) -> None:
        """Keep the last input frames of `conv` for the next chunk."""
        self._frames[conv] = strips

    def load(self, x: Strip | DiskTensor, rows: slice = slice(None)) -> Strip:
        """Return rows of a strip, moved to the device."""
        if isinstance(x, DiskTensor):
            return x.read()[..., rows, :]
        return x[..., rows, :].to(self.device, non_blocking=True)

    def offload(self, x: Strip) -> Strip:
        """Move a strip that is not in use from the GPU to CPU memory, if offloading is on."""
        return to_host(x) if self._offload and x.device.type != "cpu" else x

    def offload_frames(self, x: Strip) -> Strip | DiskTensor:
        """Offload frames for the next chunk like `offload`, and on the CPU to a temporary file."""
        return DiskTensor(x) if self._offload and x.device.type == "cpu" else self.offload(x)

    def empty(self, like: Tensor, shape: tuple[int, ...]) -> Strip:
        """Return an uninitialized tensor on the device, channels-last in memory."""
        return torch.empty(shape, dtype=like.dtype, device=self.device, memory_format=torch.channels_last_3d)
