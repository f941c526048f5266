"""Copies of videos that do not reveal their origin: one size, frame rate, encoder and modification time.

All videos of a prompt also have the same duration and the same number of bytes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cogvideox.errors import UserError
from cogvideox.video import io

Frames = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class VideoFormat:
    """Size in pixels and frame rate of all copies of a study."""

    height: int
    width: int
    fps: float


def common_format(paths: Sequence[Path]) -> VideoFormat:
    """Return the format of the copies: the smallest height and width (even), and the highest frame rate.

    Raises:
        UserError: a file is not a video.
    """
    infos = [io.probe(path) for path in paths]
    height, width = (min(getattr(info, side) for info in infos) for side in ("height", "width"))
    return VideoFormat(height - height % 2, width - width % 2, max(info.fps for info in infos))


def read_group(paths: Sequence[Path], form: VideoFormat) -> list[Frames]:
    """Read the videos of one prompt in a common format, cut to the duration of the shortest.

    Raises:
        UserError: a file cannot be read, or the shortest video has only one frame.
    """
    import torch

    from cogvideox.video.transform import resize_pad

    clips = []
    for path in paths:
        frames, _ = io.read(path, fps=form.fps)
        clips.append(resize_pad(torch.from_numpy(frames), form.height, form.width).numpy())
    shortest = min(map(len, clips))
    if shortest < 2:
        raise UserError(f"one of {', '.join(path.name for path in paths)} has fewer than two frames")
    return [clip[:shortest] for clip in clips]


def write_group(clips: Sequence[Frames], fps: float, paths: Sequence[Path]) -> None:
    """Write videos as mp4 files of the same size in bytes."""
    for clip, path in zip(clips, paths, strict=True):
        io.write(path, clip, fps)
    largest = max(path.stat().st_size for path in paths)
    for path in paths:
        missing = largest - path.stat().st_size
        if missing or len(paths) > 1:  # a box has at least 8 bytes, so every file gets one
            with path.open("ab") as file:
                file.write((missing + 8).to_bytes(4, "big") + b"free" + bytes(missing))
        os.utime(path, (0, 0))


def damage(clip: Frames, seed: int) -> Frames:
    """Return an obviously damaged copy of a clip: coarse pixels, and frames out of order. For gold items."""
    factor = max(2, min(clip.shape[1:3]) // 12)
    coarse = clip[:, ::factor, ::factor].repeat(factor, 1).repeat(factor, 2)[:, : clip.shape[1], : clip.shape[2]]
    return coarse[np.random.default_rng(seed).permutation(len(clip))]
