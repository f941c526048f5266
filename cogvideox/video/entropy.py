"""Temporal entropy of DEVIL (Liao et al. 2024, arXiv 2407.01094): the information in a video beyond that of its frames.

It is measured by the sizes of x264 files in bytes, after scaling to 128x128 and a Gaussian blur:

    H(video) + H(key frames) - sum of H(each key frame) - H(first frame)

The official script encodes three times, with losses: after scaling, after blurring, and for the measurement. Sizes
depend on the build of x264 (`x264_build`), so only values from the same build are comparable.

Axes: t frames, h w height and width in pixels.
"""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import av.filter
import numpy as np
from jaxtyping import UInt8

SIDE, SIGMA = 128, 5.0
_PARAMS = (
    "no-psy=1:aq-mode=1:aq-strength=1.0:rc-lookahead=40:bframes=3:me=umh:subme=9:partitions=all:ref=5:b-adapt=2:"
    "direct=auto:trellis=2:seed=1"
)


@dataclass(frozen=True)
class TemporalEntropy:
    """Sizes in bytes.

    Attributes:
        total: the whole video.
        keyframes: a video of its key frames.
        single_keyframes: sum over key frames, each encoded by itself.
        first: the first frame.
    """

    total: int
    keyframes: int
    single_keyframes: int
    first: int

    @property
    def value(self) -> float:
        """The temporal entropy in bytes."""
        return float(self.total + self.keyframes - self.single_keyframes - self.first)


def temporal_entropy(frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> TemporalEntropy:
    """Measure the temporal entropy of all frames of a video, at its own frame rate."""
    rate = Fraction(fps).limit_denominator(1001)
    images = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames]
    gop = len(images)
    scaled = _encode(_filtered(images, f"scale={SIDE}:{SIDE},format=yuv420p", rate), rate, gop)
    blurred = _encode(_filtered(_decode(scaled), f"gblur=sigma={SIGMA}", rate), rate, gop)
    video = _encode(_decode(blurred), rate, gop)
    decoded = _decode(video)
    # Single frames pass through PNG files (RGB) in the official script, so they are encoded without chroma subsampling.
    keys = [_as_rgb(frame) for frame in decoded if frame.pict_type == av.video.frame.PictureType.I]
    first = _as_rgb(decoded[0])
    return TemporalEntropy(
        len(video),
        len(_encode(keys, Fraction(25), None)),
        sum(len(_encode([key], Fraction(25), gop)) for key in keys),
        len(_encode([first], Fraction(25), None)),
    )


def x264_build() -> str:
    """Return the build of x264, as it writes it into streams."""
    frame = av.VideoFrame.from_ndarray(np.zeros((SIDE, SIDE, 3), np.uint8), format="rgb24")
    match = re.search(rb"x264 - core (\d+)(?: r\d+)?(?: [0-9a-f]+)?", _encode([frame], Fraction(25), None))
    return match[0].decode().strip() if match else "unknown"


def _encode(frames: Iterable[av.VideoFrame], rate: Fraction, gop: int | None) -> bytes:
    """Encode to an mp4 file by x264 with its default quality, on one thread."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height = frame.width, frame.height
                stream.pix_fmt = "yuv420p" if frame.format.name == "yuv420p" else "yuv444p"
                stream.options = {"x264-params": f"{_PARAMS}:threads=1" + (f":keyint={gop}" if gop else "")}
                stream.codec_context.thread_count = 1
            frame.pts, frame.time_base = index, 1 / rate
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        if stream is not None:
            container.mux(stream.encode(None))
    return buffer.getvalue()


def _decode(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data), "r") as container:
        return list(container.decode(video=0))


def _filtered(frames: Sequence[av.VideoFrame], filters: str, rate: Fraction) -> list[av.VideoFrame]:
    graph, first = av.filter.Graph(), frames[0]
    nodes = [
        graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=1 / rate),
        *(graph.add(*text.split("=", 1)) for text in filters.split(",")),
        graph.add("buffersink"),
    ]
    for node, following in pairwise(nodes):
        node.link_to(following)
    graph.configure()
    results = []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, 1 / rate
        graph.push(frame)
        result = graph.pull()
        assert isinstance(result, av.VideoFrame)
        results.append(result)
    return results


def _as_rgb(frame: av.VideoFrame) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
