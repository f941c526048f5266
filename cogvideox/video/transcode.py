"""Streaming encoder: write frames with their display times to an mp4 file, one at a time."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av

from cogvideox.atomic_io import atomic_write
from cogvideox.video.reading.timing import TimedFrame
from cogvideox.video.writers import add_h264_stream, to_yuv420p

_TICK = Fraction(1, 90_000)


def write_frames(path: str | Path, frames: Iterable[TimedFrame], start: float, *, crf: int = 15) -> int:
    """Encode frames as H.264 with their display times, and return the number of frames.

    An odd height or width is cropped by one row or column.

    Args:
        start: time in seconds that becomes 0 in the file.
        crf: constant rate factor of x264: 0 is lossless, 15 is visually lossless, 23 is the default of x264.

    Raises:
        UserError: the file cannot be written, or a frame cannot be decoded.
    """
    num_frames = 0
    with (
        atomic_write(path) as temporary,
        av.open(str(temporary.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = None
        for timed_frame in frames:
            rgb = timed_frame.rgb()
            height, width = (side - side % 2 for side in rgb.shape[:2])
            if stream is None:
                rate = round(1 / timed_frame.seconds) if timed_frame.seconds > 0 else 25
                stream = add_h264_stream(container, rate, height, width, crf)
                stream.time_base = stream.codec_context.time_base = _TICK
            frame = to_yuv420p(rgb[:height, :width])
            frame.pts, frame.time_base = round((timed_frame.time - start) / _TICK), _TICK
            frame.duration = max(1, round(timed_frame.seconds / _TICK))
            container.mux(stream.encode(frame))
            num_frames += 1
        if stream is not None:
            container.mux(stream.encode())
    return num_frames
