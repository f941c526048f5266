"""Effects on the time axis: freezes, slide shows of stills, time lapse.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from cogvideox.toybox.effects.camera import film, zoom

Frames = UInt8[np.ndarray, "t h w c"]


def freeze(clip: Frames, start: int, length: int) -> Frames:
    """Replace the frames after `start` by copies of it, for `length` frames in total. The number of frames is kept."""
    frozen = clip.copy()
    frozen[start : start + length] = clip[start]
    return frozen


def slide_show(images: Sequence[UInt8[np.ndarray, "h w c"]], num_frames: int, zoom_rate: float = 0.0) -> Frames:
    """Show still images one after the other, `num_frames` frames each.

    Args:
        zoom_rate: growth of the magnification per frame, for a slow zoom into each image (Ken Burns effect).
    """
    if zoom_rate == 0.0:
        return np.repeat(np.stack(images), num_frames, axis=0)
    path = zoom(num_frames, zoom_rate)
    return np.concatenate([film(image, path, image.shape[:2]) for image in images])


def time_lapse(clip: Frames, step: int) -> Frames:
    """Show every `step`-th frame `step` times, with the jerky motion of a time lapse of still images."""
    return np.repeat(clip[::step], step, axis=0)[: len(clip)]
