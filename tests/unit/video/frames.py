"""Images and videos with known frames, for the tests of reading."""

from fractions import Fraction

import av
import numpy as np

H, W = 32, 48
CORNERS = [(200, 40, 30), (40, 190, 60), (50, 60, 210), (220, 210, 60)]


def sample_image():
    """Four colors, so that every orientation looks different."""
    pixels = np.zeros((H, W, 3), np.uint8)
    for corner, (y, x) in zip(CORNERS, ((0, 0), (0, 1), (1, 0), (1, 1))):
        pixels[y * H // 2 : (y + 1) * H // 2, x * W // 2 : (x + 1) * W // 2] = corner
    return pixels


def encode(path, times, codec="libx264", tick=Fraction(1, 1000), setup=None, **options):
    """Write a video whose k-th frame has the gray value 10 k, at these times in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.codec_context.time_base = tick
        if setup is not None:
            setup(container, stream)
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((H, W, 3), 10 * k % 250, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grays(frames):
    return [round(float(frame.mean()) / 10) for frame in frames]


def near(a, b, tolerance):
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() <= tolerance
