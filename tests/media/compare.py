"""Compare what the package reads with what the FFmpeg command line decodes, frame by frame."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from cogvideox.video import io
from cogvideox.video.reading import containers
from tests.media import corpus
from tests.media.corpus import Clip, run

MAX_DIFFERENCE = 2.0
"""Largest mean absolute difference of a frame, of 255."""

ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
"""How FFmpeg scales; without these flags, its images are 1 to 2 levels too dark."""

MAX_TIME = 0.5
"""Largest difference of a timestamp, in frames."""


@dataclass(frozen=True)
class Result:
    """Frames compared, the largest mean absolute difference, and the largest difference in time, in frames."""

    num_frames: int
    difference: float
    time: float
    problem: str = ""


def reference(path: Path, display_filters: str = "") -> tuple[np.ndarray, list[float]]:
    """Return the frames that FFmpeg decodes, with square pixels, and their times."""
    filters = ",".join(
        part
        for part in (
            display_filters,
            f"scale=w='max(1,round(iw*sar))':h=ih:flags={ACCURATE},setsar=1,format=rgb24,showinfo",
        )
        if part
    )
    # Rotation comes first in FFmpeg's chain, so the aspect ratio is that of the rotated frame.
    out, messages = run(
        *("-i", str(path), "-map", "0:V:0", "-vsync", "passthrough", "-copyts", "-vf", filters),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    )
    decoded = re.findall(r"\bn: *\d+ pts: *\S+ pts_time:(\S+).*? s:(\d+)x(\d+)", messages)
    width, height = int(decoded[0][1]), int(decoded[0][2])
    times: list[float] = []
    for stamp, *_ in decoded:
        # Raw streams have no timestamps; those that FFmpeg generates have gaps.
        times.append(len(times) / corpus.FPS if path.suffix in corpus.RAW_STREAMS else float(stamp))
    return np.frombuffer(out, np.uint8).reshape(-1, height, width, 3), [time - times[0] for time in times]


def compare(clip: Clip, folder: Path) -> Result:
    """Write a clip, and compare all its frames, their times, its length and three frames after seeking."""
    path = clip.write(folder)
    frames, times = reference(path, clip.shown)
    read_frames = [(frame.time, frame.rgb()) for frame in containers.timed_frames(path)]
    if len(read_frames) != len(frames):
        return Result(len(frames), 0, 0, f"{len(read_frames)} frames, not {len(frames)}")
    if read_frames[0][1].shape != frames[0].shape:
        return Result(len(frames), 0, 0, f"shape {read_frames[0][1].shape}, not {frames[0].shape}")
    steps = [b - a for a, b in pairwise(times)]
    step = min((step for step in steps if step > 0), default=0.04)
    difference = max(distance(image, frame) for (_, image), frame in zip(read_frames, frames))
    late = max(abs(time - expected) for (time, _), expected in zip(read_frames, times)) / step
    info = io.probe(path)
    problem = ""
    if info.num_frames != len(frames):
        problem = f"probe counts {info.num_frames} frames, not {len(frames)}"
    is_constant = max(steps) < 1.1 * step
    if is_constant or path.suffix in corpus.STORES_DURATIONS:
        length = times[-1] + (step if is_constant else 1 / corpus.FPS)
        if abs(info.seconds - length) > 0.6 * step:
            problem = f"probe says {info.seconds:.3f} s, not {length:.3f} s"
    for index in (len(frames) * 2 // 5, len(frames) * 3 // 4, len(frames) - 1):
        frame_after_seek = io.read(path, start=times[index] + step * 0.1, fps=1 / step, max_frames=1)[0][0]
        difference = max(difference, jump := distance(frame_after_seek, frames[index]))
        if jump > MAX_DIFFERENCE:
            problem = f"after seeking to frame {index}: difference {jump:.1f}"
    if difference > MAX_DIFFERENCE and not problem:
        problem = "too different"
    if late > MAX_TIME:
        problem = f"{late:.2f} frames late"
    return Result(len(frames), difference, late, problem)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean absolute difference of two frames."""
    return float(np.abs(a.astype(np.int16) - b).mean())
