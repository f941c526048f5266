"""Times of the frames to caption (one every 2 s by default), and the sampled frame shown at a time."""

from cogvideox.curation.signals.base import SampledFrames


def caption_times(seconds: float, interval: float) -> tuple[float, ...]:
    """Return the times of the frames to caption: multiples of the interval that are in the clip; 0 for an image."""
    return tuple(index * interval for index in range(max(1, -(-int(seconds * 1000) // int(interval * 1000)))))


def frame_at(sampled: SampledFrames, time: float) -> int:
    """Return the index of the frame that is shown at a time in seconds from the start of the clip."""
    return max(0, int((sampled.times <= time + 1e-6).sum()) - 1)
