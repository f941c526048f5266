"""Write frames with their own times to an mp4 file, one by one, without keeping them."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from cogvideox.atomic_io import atomic_write
from cogvideox.video.reading.display import ACCURATE
from cogvideox.video.reading.timing import TimedFrame

ENCODER = "libx264"
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
                stream = container.add_stream(ENCODER, rate=round(1 / shown.seconds) if shown.seconds > 0 else 25)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                stream.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
                stream.time_base = stream.codec_context.time_base = _TICK
                codec = stream.codec_context
                codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
                codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24").reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=ACCURATE,
            )
            frame.pts, frame.time_base = round((shown.time - start) / _TICK), _TICK
            frame.duration = max(1, round(shown.seconds / _TICK))
            container.mux(stream.encode(frame))
            number += 1
        if stream is not None:
            container.mux(stream.encode())
    return number
