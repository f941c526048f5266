"""Compare what the package reads with what the FFmpeg command line shows, frame by frame."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from cogvideox.video import io
from cogvideox.video.reading import containers
from tests.media.corpus import Clip, run

MAX_DIFFERENCE = 2.0
"""Largest mean absolute difference of a frame, of 255."""

ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
"""How FFmpeg scales; without these flags, its pictures are 1 to 2 levels too dark."""

MAX_TIME = 0.5
"""Largest difference of a timestamp, in frames."""


@dataclass(frozen=True)
class Result:
    """Frames compared, the largest mean absolute difference, and the largest difference in time, in frames."""

    num_frames: int
    difference: float
    time: float
    problem: str = ""


def reference(path: Path, shown: str = "") -> tuple[np.ndarray, list[float]]:
    """Return the frames that FFmpeg shows, with square pixels, and their times."""
    filters = ",".join(
        part
        for part in (
            shown,
            f"scale=w='max(1,round(iw*sar))':h=ih:flags={ACCURATE},setsar=1,format=rgb24,showinfo",
        )
        if part
    )
    # Rotation comes first in FFmpeg's chain, so the aspect ratio is that of the rotated frame.
    out, messages = run(
        *("-i", str(path), "-map", "0:V:0", "-vsync", "passthrough", "-copyts", "-vf", filters),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    )
    found = re.findall(r"\bn: *\d+ pts: *\S+ pts_time:(\S+).*? s:(\d+)x(\d+)", messages)
    width, height = int(found[0][1]), int(found[0][2])
    times: list[float] = []
    for stamp, *_ in found:
        times.append(times[-1] + 1 / 25 if stamp == "NOPTS" and times else 0.0 if stamp == "NOPTS" else float(stamp))
    return np.frombuffer(out, np.uint8).reshape(-1, height, width, 3), [time - times[0] for time in times]


def compare(clip: Clip, folder: Path) -> Result:
    """Write a clip, and compare all its frames, their times, its length and one frame after a jump."""
    path = clip.write(folder)
    frames, times = reference(path, clip.shown)
    ours = [(frame.time, frame.rgb(), frame.seconds) for frame in containers.timed_frames(path)]
    if len(ours) != len(frames):
        return Result(len(frames), 0, 0, f"{len(ours)} frames, not {len(frames)}")
    if ours[0][1].shape != frames[0].shape:
        return Result(len(frames), 0, 0, f"shape {ours[0][1].shape}, not {frames[0].shape}")
    steps = [b - a for a, b in pairwise(times)]
    step = min((step for step in steps if step > 0), default=0.04)
    difference = max(distance(image, frame) for (_, image, _), frame in zip(ours, frames))
    late = max(abs(time - expected) for (time, *_), expected in zip(ours, times)) / step
    info = io.probe(path)
    problem = ""
    if info.num_frames != len(frames):
        problem = f"probe counts {info.num_frames} frames, not {len(frames)}"
    if abs(info.seconds - (ours[-1][0] + ours[-1][2])) > step / 2:
        problem = f"probe says {info.seconds} s, and the last frame ends at {ours[-1][0] + ours[-1][2]}"
    for at in (len(frames) * 2 // 5, len(frames) * 3 // 4, len(frames) - 1):
        after = io.read(path, start=times[at] + step * 0.1, fps=1 / step, max_frames=1)[0][0]
        difference = max(difference, jump := distance(after, frames[at]))
        if jump > MAX_DIFFERENCE:
            problem = f"after a jump to frame {at}: difference {jump:.1f}"
    if difference > MAX_DIFFERENCE and not problem:
        problem = "too different"
    if late > MAX_TIME:
        problem = f"{late:.2f} frames late"
    return Result(len(frames), difference, late, problem)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference of two frames."""
    return float(np.abs(a.astype(np.int16) - b).mean())
