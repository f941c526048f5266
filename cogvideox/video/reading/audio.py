"""Reads the sound of videos."""

from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32

from cogvideox.untrusted.files import reading
from cogvideox.video.reading.containers import open_container, start_time


def read_audio(path: Path, start: float, end: float, rate: int) -> Float32[np.ndarray, " samples"]:
    """Return the first sound track between two times as mono samples in [-1, 1]; empty if there is none.

    Args:
        start, end: seconds from the first video frame, or in a file without video from timestamp 0.
        rate: samples per second.

    Raises:
        UserError: the file cannot be read.
    """
    parts: list[np.ndarray] = []
    first = None
    with reading(path, "damaged, or its sound is"), open_container(path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        origin = start_time(path) if container.streams.video else 0.0
        start, end = start + origin, end + origin
        stream = container.streams.audio[0]
        container.seek(int(start * av.time_base), backward=True)
        resampler = av.AudioResampler(format="fltp", rate=rate)
        for frame in container.decode(stream):
            time = frame.time or 0.0
            if time >= end:
                break
            first = time if first is None else first
            parts += [resampled.to_ndarray().mean(0) for resampled in resampler.resample(frame)]
        parts += [resampled.to_ndarray().mean(0) for resampled in resampler.resample(None)]
    if first is None:
        return np.zeros(0, np.float32)
    sound = np.concatenate(parts).astype(np.float32)
    return sound[max(0, round((start - first) * rate)) : max(0, round((end - first) * rate))]
