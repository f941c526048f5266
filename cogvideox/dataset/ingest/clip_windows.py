"""What the VAE will see of a clip: which frames, in which size."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cogvideox import geometry
from cogvideox.dataset.config import Target
from cogvideox.dataset.latents.cache_keys import VERSION, identity, key
from cogvideox.errors import UserError
from cogvideox.geometry import FRAME_RATIO, round_down_frames, size_for_area
from cogvideox.records import Clip

SLOWEST = 0.75
"""A clip may have so much less of frames a second than is wanted; below, more than every fourth would be a repetition.
"""


@dataclass(frozen=True)
class View:
    """A piece of a clip, as `num_frames` frames at `fps` frames a second (an image: 0), cut to `height` x `width`."""

    clip: Clip
    fps: float
    num_frames: int
    height: int
    width: int

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is seen of the clip's own frames, in their pixels."""
        place = geometry.cover(self.clip.height, self.clip.width, self.height, self.width)
        down, across = self.clip.height / place.height, self.clip.width / place.width
        return (
            round(place.top * down),
            round(place.left * across),
            round(self.height * down),
            round(self.width * across),
        )

    def latents_key(self, vae: str) -> str:
        """What the posterior is known by; `vae` is the hash of the encoder."""
        return key("latents", VERSION, self.clip.id, self.fps, self.num_frames, self.height, self.width, vae)

    def images_key(self, num_copies: int, vae: str) -> str:
        """What the first frame, so often under noise, is known by."""
        return key("images", VERSION, self.clip.id, num_copies, self.height, self.width, vae)


def plan(clips: Iterable[Clip], target: Target) -> tuple[list[View], list[tuple[str, str]]]:
    """What is seen of all clips, and of which nothing, with the reason."""
    views, rejects = [], []
    for clip in clips:
        try:
            views.extend(views_of(clip, target))
        except UserError as error:
            rejects.append((str(clip.source), str(error)))
    return views, rejects


def views_of(clip: Clip, target: Target) -> list[View]:
    """The pieces of one clip: one after the other, each of `target.num_frames` frames but for the last.

    What is left at the end becomes a piece of 4k+1 frames, or is dropped where it has fewer than 5.

    Raises:
        UserError: it is too small, too short or too slow.
    """
    height, width = _size(clip, target)
    if clip.is_image:
        return [View(clip, 0.0, 1, height, width)]
    if clip.fps < SLOWEST * target.fps:
        raise UserError(f"it has {clip.fps:g} frames a second, too few for the {target.fps:g} that are wanted")
    there = math.ceil(clip.seconds * target.fps - 0.01)  # as `video.io.read` counts: what lasts a hundredth is none
    least = min(FRAME_RATIO + 1, target.num_frames)
    if there < least:
        raise UserError(
            f"it is too short: {geometry.format_frames(there)} at {target.fps:g} frames a second, "
            f"and a video has {least}"
        )
    pieces = []
    for first in range(0, there, target.num_frames):
        num_frames = round_down_frames(min(target.num_frames, there - first))
        if num_frames >= least:
            pieces.append((first, num_frames))
    if target.windows == "first":
        pieces = pieces[:1]
    if len(pieces) == 1:
        return [View(clip, target.fps, pieces[0][1], height, width)]
    return [View(_piece(clip, first, num, target.fps), target.fps, num, height, width) for first, num in pieces]


def _piece(clip: Clip, first: int, num_frames: int, fps: float) -> Clip:
    begin = clip.start or 0.0
    start, end = begin + first / fps, begin + (first + num_frames) / fps
    own = max(1, round(num_frames / fps * clip.fps))
    return replace(clip, id=identity(clip.id, start, end), start=start, end=end, num_frames=own)


def _size(clip: Clip, target: Target) -> tuple[int, int]:
    if min(clip.height, clip.width) < target.multiple:
        raise UserError(
            f"it is too small: {clip.width}x{clip.height} pixels, and the least is {target.multiple}x{target.multiple}"
        )
    if target.max_area is not None:
        return size_for_area(clip.height, clip.width, target.max_area, target.multiple)
    assert target.height is not None
    assert target.width is not None
    return target.height, target.width
