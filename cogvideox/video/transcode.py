"""Write frames with their own times to an mp4 file, one by one, without keeping them."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av

from cogvideox.atomic_io import atomic_write
from cogvideox.video.reading.timing import TimedFrame
from cogvideox.video.writers import add_h264_stream, to_yuv420p

_TICK = Fraction(1, 90_000)


def write_frames(path: str | Path, frames: Iterable[TimedFrame], start: float, *, crf: int = 15) -> int:
    """Encode frames as H.264, and return their number. Times are kept, so a variable frame rate is kept too.

    An odd height or width is reduced by one row or column.

    Args:
        start: time in seconds that becomes 0.
        crf: quality of x264: 0 is lossless, 15 hardly visible, 23 the default of x264.

    Raises:
        UserError: the file cannot be written, or there is an error in the frames.
    """
    number = 0
    with (
        atomic_write(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = None
        for shown in frames:
            rgb = shown.rgb()
            height, width = (side - side % 2 for side in rgb.shape[:2])
            if stream is None:
                rate = round(1 / shown.seconds) if shown.seconds > 0 else 25
                stream = add_h264_stream(container, rate, height, width, crf)
                stream.time_base = stream.codec_context.time_base = _TICK
            frame = to_yuv420p(rgb[:height, :width])
            frame.pts, frame.time_base = round((shown.time - start) / _TICK), _TICK
            frame.duration = max(1, round(shown.seconds / _TICK))
            container.mux(stream.encode(frame))
            number += 1
        if stream is not None:
            container.mux(stream.encode())
    return number
