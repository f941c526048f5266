"""Which clips a run sees. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ToyboxClips:
    """Clips of the toybox. Clip i shows the scene of seed `first_seed + i`; withheld compositions never occur.

    Two sets whose seeds do not overlap share no scene. Sizes are in pixels and frames, `fps` in frames per second.
    """

    num_clips: int
    first_seed: int = 0
    grammar: str = "core"
    num_frames: int = 9
    height: int = 64
    width: int = 64
    fps: float = 8.0

    @property
    def seconds(self) -> float:
        """Time between the first and the last frame: what a toy's way is spread over."""
        return (self.num_frames - 1) / self.fps
