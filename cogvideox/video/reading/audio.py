"""Reading of audio tracks."""

from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32

from cogvideox.untrusted.files import reading
from cogvideox.video.reading.containers import open_container, start_time


def read_audio(path: Path, start: float, end: float, rate: int) -> Float32[np.ndarray, " samples"]:
    """Return the first audio track between two times as mono samples in [-1, 1]; empty without an audio track.

    Args:
        start, end: seconds from the first video frame; in a file without video, from timestamp 0.
        rate: sample rate in Hz.

    Raises:
        UserError: the file cannot be read.
    """
    chunks: list[np.ndarray] = []
    first = None
    with reading(path, "damaged, or its audio is"), open_container(path) as container:
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
            chunks += [resampled.to_ndarray().mean(0) for resampled in resampler.resample(frame)]
        chunks += [resampled.to_ndarray().mean(0) for resampled in resampler.resample(None)]
    if first is None:
        return np.zeros(0, np.float32)
    samples = np.concatenate(chunks).astype(np.float32)
    return samples[max(0, round((start - first) * rate)) : max(0, round((end - first) * rate))]
