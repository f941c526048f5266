"""What a generation tells while it runs, and how it is stopped.

Axes: z latent channels, lt lh lw latent frames, height and width; t h w pictures, height and width in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import to_frames

if TYPE_CHECKING:
    from cogvideox.records import Video

Pictures = UInt8[np.ndarray, "t h w 3"]
Stage = Literal["invert", "denoise", "decode"]


@dataclass(frozen=True)
class Progress:
    """Where a generation stands: given to `on_step` after each denoising step, and while frames are decoded."""

    stage: Stage
    done: int
    total: int  # steps when denoising, frames when decoding
    video: int = 0  # which of the videos, from 0
    num_videos: int = 1
    look: Callable[[int, int], Pictures] | None = field(default=None, repr=False, compare=False)

    def preview(self, num_pictures: int = 1, max_side: int = 256) -> Pictures:
        """Small pictures of what the video looks like so far, at evenly spaced moments, the first of them its first
        frame. They cost a fraction of a step, and nothing where they are not asked for.

        Args:
            num_pictures: at most one for each latent frame.
            max_side: the longer side, in pixels, at most.
        """
        if self.look is None:
            raise ValueError("only the progress that a generation reports has something to look at")
        return self.look(num_pictures, max_side)


OnStep = Callable[[Progress], None]


class Cancelled(Exception):
    """Raise it in `on_step` to end a generation. What comes out of `generate` then holds the videos that were done."""

    def __init__(self) -> None:
        super().__init__("the generation was cancelled")
        self.videos: list[Video] = []


def preview(
    vae: CausalVAE, latents: Float[Tensor, "1 z lt lh lw"], num_pictures: int = 1, max_side: int = 256
) -> UInt8[np.ndarray, "t h w 3"]:
    """Latents as small pictures: some of them, averaged to a smaller size, and decoded one by one.

    A latent frame that stands alone decodes to one picture instead of four, so that this is quick; it is not quite what
    the frame becomes in its place.

    Args:
        latents: at the transformer's scale.
    """
    config = vae.config
    num_pictures = min(max(num_pictures, 1), latents.shape[2])
    moments = torch.linspace(0, latents.shape[2] - 1, num_pictures).round().long()
    cells = rearrange(latents[:, :, moments.to(latents.device)], "1 c t h w -> t c h w")
    limit = max(max_side // config.spatial_compression_ratio, 1)
    scale = min(1.0, limit / max(cells.shape[2:]))
    size = [max(1, round(side * scale)) for side in cells.shape[2:]]
    cells = F.interpolate(cells.float() / config.scaling_factor, size, mode="area")
    with torch.inference_mode():
        pictures = vae.decode(rearrange(cells, "t c h w -> t c 1 h w").to(next(vae.parameters()).dtype))
    return to_frames(rearrange(pictures, "t c 1 h w -> c t h w")).cpu().numpy()
