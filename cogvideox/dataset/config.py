"""Which clips a run sees. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from cogvideox.errors import UserError
from cogvideox.geometry import check_frames


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
