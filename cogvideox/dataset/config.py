"""Which clips a run sees, and in which form. Imports no torch."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from cogvideox.errors import UserError
from cogvideox.geometry import check_frames, check_size

FIRST_FRAMES = 4  # beside the 13 latent frames of a clip of 49 that is bearable, and the noise is seldom the same


@dataclass(frozen=True)
class ToyboxClips:
    """Clips of the toybox. Clip i shows the scene of seed `first_seed + i`; withheld compositions never occur.

    Two sets whose seeds do not overlap share no scene. Sizes are in pixels and frames, `fps` in frames per second.
    Clips of one frame are images: nothing moves, and captions do not say that it does.

    Raises:
        UserError: no clips, a number of frames other than 4k+1, a size or rate that is not positive.
    """

    num_clips: int
    first_seed: int = 0
    grammar: Literal["core", "full"] = "core"
    num_frames: int = 9
    height: int = 64
    width: int = 64
    fps: float = 8.0

    def __post_init__(self) -> None:
        for name, least in (("num_clips", 1), ("first_seed", 0), ("height", 1), ("width", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} of clips is below the smallest legal value, {least}")
        if not 0 < self.fps < math.inf:
            raise UserError(f"fps={self.fps} of clips has to be above 0; 8 is usual")
        check_frames(self.num_frames)

    @property
    def seconds(self) -> float:
        """Time between the first and the last frame: what a toy's way is spread over."""
        return (self.num_frames - 1) / self.fps


@dataclass(frozen=True)
class Target:
    """What clips become before the VAE sees them: how many frames a second, how many of them, of which size.

    fps: frames a second; a clip of less than three quarters of it is rejected, because its frames would be repeated.
    num_frames: 4k+1. A longer clip is cut into windows of so many, a shorter one to the 4k+1 that it has.
    height, width: one size for all, which every clip is resized to cover and cut to.
    max_area: instead, for each clip the size of at most so many pixels in which most of it is seen; none is enlarged.
    multiple: what heights and widths are multiples of: the VAE's ratio times the transformer's patch.
    windows: all of a long clip, or only its first.
    first_frames: how often the first frame of each clip is encoded by itself, under noise of its own each time, for
        models that begin with an image.

    Raises:
        UserError: a size that is not legal; both ways of giving a size, or neither.
    """

    fps: float
    num_frames: int
    height: int | None = None
    width: int | None = None
    max_area: int | None = None
    multiple: int = 16
    windows: Literal["all", "first"] = "all"
    first_frames: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise UserError(f"fps={self.fps} has to be above 0; 8 and 16 are usual")
        check_frames(self.num_frames)
        if (self.height is None) != (self.width is None):
            raise UserError("a fixed size has a height and a width, and only one of them is given")
        if (self.height is None) == (self.max_area is None):
            raise UserError("the size of clips is given either by height and width or by their largest area")
        if self.height is not None and self.width is not None:
            check_size(self.height, self.width, self.multiple)
        if self.max_area is not None and self.max_area < self.multiple**2:
            least = f"{self.multiple}x{self.multiple}"
            raise UserError(f"an area of {self.max_area} pixels is too small; the least is {least}")
        if self.first_frames < 0:
            raise UserError(f"first_frames={self.first_frames} is below the smallest legal value, 0")

    def beginning_with_images(self) -> "Target":
        """With the first frames that a model needs which begins with an image: as many as were asked for, or 4."""
        return replace(self, first_frames=self.first_frames or FIRST_FRAMES)


@dataclass(frozen=True)
class StoreSettings:
    """With what a store of latents was made, and what training has to know of it without the networks.

    model: the folder or the name of it. vae, text_encoder: hashes of their weights.
    scaling_factor: what latents are multiplied by for the transformer. ratio: pixels to a latent, in space.
    null_text: what stands for no caption, the features of "" or zeros.
    """

    model: str
    vae: str
    text_encoder: str
    latent_channels: int
    scaling_factor: float
    ratio: int
    text_length: int
    text_width: int
    null_text: Literal["empty", "zero"]
    target: Target
