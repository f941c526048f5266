"""Progress reports, previews and cancellation of a generation.

Axes: z latent channels, lt lh lw latent frames, height and width; t h w frames, height and width in pixels.
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

from cogvideox.vae.latent_scaling import unscale_latents
from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import to_frames

if TYPE_CHECKING:
    from cogvideox.records import Video

Frames = UInt8[np.ndarray, "t h w 3"]
Stage = Literal["invert", "denoise", "decode"]


@dataclass(frozen=True)
class GenerationProgress:
    """The progress of a generation, passed to `on_step` after each denoising step and each decoded chunk.

    Attributes:
        done, total: number of steps during inversion and denoising, number of frames during decoding.
        video, num_videos: the index of the current video, from 0, and the number of videos.
        render_preview: see `preview`.
    """

    stage: Stage
    done: int
    total: int
    video: int = 0
    num_videos: int = 1
    render_preview: Callable[[int, int], Frames] | None = field(default=None, repr=False, compare=False)

    def preview(self, num_frames: int = 1, max_side: int = 256) -> Frames:
        """Decode evenly spaced frames of the current estimate of the video, at low resolution.

        This takes much less time than a denoising step.

        Args:
            num_frames: number of frames, limited to one per latent frame.
            max_side: maximum length of the longer side, in pixels.

        Raises:
            ValueError: this object was not passed to `on_step`.
        """
        if self.render_preview is None:
            raise ValueError("no preview available: only a GenerationProgress that was passed to on_step has one")
        return self.render_preview(num_frames, max_side)


OnStep = Callable[[GenerationProgress], None]


class Cancelled(Exception):
    """Raise this in `on_step` to cancel a generation. `generate` re-raises it with the finished videos."""

    def __init__(self) -> None:
        super().__init__("the generation was cancelled")
        self.videos: list[Video] = []


def preview(
    vae: CausalVAE, latents: Float[Tensor, "1 z lt lh lw"], num_frames: int = 1, max_side: int = 256
) -> UInt8[np.ndarray, "t h w 3"]:
    """Decode some latent frames at low resolution: downscale them in latent space and decode each separately.

    Each latent frame is decoded to one frame instead of four, which is fast but slightly inexact.

    Args:
        latents: latents at the transformer's scale.
    """
    config = vae.config
    num_frames = min(max(num_frames, 1), latents.shape[2])
    times = torch.linspace(0, latents.shape[2] - 1, num_frames).round().long()
    selected = rearrange(latents[:, :, times.to(latents.device)], "1 c t h w -> t c h w")
    limit = max(max_side // config.spatial_compression_ratio, 1)
    scale = min(1.0, limit / max(selected.shape[2:]))
    size = [max(1, round(side * scale)) for side in selected.shape[2:]]
    selected = F.interpolate(unscale_latents(selected.float(), config.scaling_factor), size, mode="area")
    with torch.inference_mode():
        frames = vae.decode(rearrange(selected, "t c h w -> t c 1 h w").to(next(vae.parameters()).dtype))
    return to_frames(rearrange(frames, "t c 1 h w -> c t h w")).cpu().numpy()
