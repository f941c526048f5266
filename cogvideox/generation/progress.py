"""Progress of a generation, previews of it, and how to cancel it.

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
    """How far a generation has come: passed to `on_step` after each denoising step and each decoded chunk.

    done, total: steps while inverting and denoising, frames while decoding.
    video, num_videos: the index of the current video, from 0, and how many there are.
    render_preview: see `preview`.
    """

    stage: Stage
    done: int
    total: int
    video: int = 0
    num_videos: int = 1
    render_preview: Callable[[int, int], Pictures] | None = field(default=None, repr=False, compare=False)

    def preview(self, num_pictures: int = 1, max_side: int = 256) -> Pictures:
        """Small pictures of the current estimate of the video, at evenly spaced times from the first frame on.

        Decoded on demand, in a fraction of the time of a step.

        Args:
            num_pictures: at most one for each latent frame.
            max_side: upper limit of the longer side, in pixels.

        Raises:
            ValueError: this object was not passed to `on_step`.
        """
        if self.render_preview is None:
            raise ValueError("there is no preview: only a Progress that was passed to on_step has one")
        return self.render_preview(num_pictures, max_side)


OnStep = Callable[[Progress], None]


class Cancelled(Exception):
    """Raise it in `on_step` to cancel a generation. `generate` passes it on with the videos that were finished."""

    def __init__(self) -> None:
        super().__init__("the generation was cancelled")
        self.videos: list[Video] = []


def preview(
    vae: CausalVAE, latents: Float[Tensor, "1 z lt lh lw"], num_pictures: int = 1, max_side: int = 256
) -> UInt8[np.ndarray, "t h w 3"]:
    """Decode some latent frames as small pictures: downscaled in latent space and decoded one by one.

    A latent frame by itself decodes to one picture instead of four. That is fast, but differs a little from the frames
    of the video.

    Args:
        latents: at the transformer's scale.
    """
    config = vae.config
    num_pictures = min(max(num_pictures, 1), latents.shape[2])
    times = torch.linspace(0, latents.shape[2] - 1, num_pictures).round().long()
    chosen = rearrange(latents[:, :, times.to(latents.device)], "1 c t h w -> t c h w")
    limit = max(max_side // config.spatial_compression_ratio, 1)
    scale = min(1.0, limit / max(chosen.shape[2:]))
    size = [max(1, round(side * scale)) for side in chosen.shape[2:]]
    chosen = F.interpolate(chosen.float() / config.scaling_factor, size, mode="area")
    with torch.inference_mode():
        pictures = vae.decode(rearrange(chosen, "t c h w -> t c 1 h w").to(next(vae.parameters()).dtype))
    return to_frames(rearrange(pictures, "t c 1 h w -> c t h w")).cpu().numpy()
