"""Degradations of the renders with known labels, and whether a person would see them.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

import io
from fractions import Fraction

import av
import cv2
import numpy as np
from jaxtyping import Float64, UInt8

Frames = UInt8[np.ndarray, "t h w c"]
MAX_SIMILARITY = 0.8
"""A degradation is visible if the SSIM of the tenth of the picture that changed most is at most this."""


def encode(clip: Frames, fps: float, codec: str = "libx264", container: str = "mp4", **options: str) -> bytes:
    """Encode a clip. Equal clips give equal files: x264 uses one thread, and no macroblock tree.

    With the macroblock tree, x264's assembly gives different files for equal clips, even within a process.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = (side // 2 * 2 for side in clip.shape[1:3])
        stream.pix_fmt, stream.options = "yuv420p", options | {"threads": "1"}
        if codec == "libx264":
            stream.options |= {"x264-params": "mbtree=0"}
        for image in clip[:, : stream.height, : stream.width]:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def recode(clip: Frames, fps: float, codec: str, **options: str) -> Frames:
    """Return the clip as it looks after encoding. Options have the encoder's names, with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    with av.open(io.BytesIO(encode(clip, fps, codec, "matroska", **named))) as coded:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in coded.decode(video=0)])
    rows, columns = (whole - part for whole, part in zip(clip.shape[1:3], frames.shape[1:3], strict=True))
    return np.pad(frames, [(0, 0), (0, rows), (0, columns), (0, 0)], mode="edge")


def is_visible(clean: Frames, degraded: Frames, fps: float, crf: int) -> bool:
    """Return whether the degradation, encoding included, visibly changes at least a tenth of the picture."""
    return similarity(clean, recode(degraded, fps, "libx264", crf=str(crf), preset="fast")) <= MAX_SIMILARITY


def similarity(clean: Frames, degraded: Frames) -> float:
    """Return the mean SSIM of the tenth of the picture where it is lowest, mean over three frames."""
    last = min(len(clean), len(degraded)) - 1
    values = []
    for index in (0, last // 2, last):
        a, b = (cv2.cvtColor(clip[index], cv2.COLOR_RGB2GRAY).astype(np.float64) for clip in (clean, degraded))
        values.append(np.sort(_ssim_map(a, b).ravel())[: a.size // 10].mean())
    return float(np.mean(values))


def _ssim_map(a: Float64[np.ndarray, "h w"], b: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    def smooth(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance, c1, c2 = smooth(a * b) - mean_a * mean_b, (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return similar / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))


def defocus(clip: Frames, radius: float) -> Frames:
    """Blur by a disc, as a lens out of focus does."""
    reach = max(2, round(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (y**2 + x**2 <= reach**2).astype(np.float64)
    return np.stack([cv2.filter2D(frame, -1, disc / disc.sum()) for frame in clip])


def zoom_blur(clip: Frames, amount: float) -> Frames:
    """Average enlarged copies of each frame."""
    height, width = clip.shape[1:3]
    scales = np.linspace(1.0, 1.0 + amount, 8)
    zooms = [np.float64([[s, 0, (1 - s) * width / 2], [0, s, (1 - s) * height / 2]]) for s in scales]
    copies = [np.mean([cv2.warpAffine(frame, zoom, (width, height)) for zoom in zooms], 0) for frame in clip]
    return np.stack(copies).round().astype(np.uint8)


def ghosts(clip: Frames, length: int) -> Frames:
    """Average each frame with those before it."""
    padded = np.concatenate([np.repeat(clip[:1], length - 1, 0), clip]).astype(np.float32)
    return np.mean([padded[start : start + len(clip)] for start in range(length)], 0).round().astype(np.uint8)


def motion_blur(clip: Frames, length: int) -> Frames:
    """Blur along the rows."""
    copies = [np.roll(clip, shift - length // 2, 2).astype(np.float32) for shift in range(length)]
    return np.mean(copies, 0).round().astype(np.uint8)


def diagonal_blur(clip: Frames, length: int) -> Frames:
    """Blur along a diagonal."""
    kernel = np.eye(length) / length
    return np.stack([cv2.filter2D(frame, -1, kernel) for frame in clip])


def grain(clip: Frames, sigma: float, rng: np.random.Generator) -> Frames:
    """Add gray noise, and weaker noise of color."""
    gray = rng.normal(0, sigma, (*clip.shape[:3], 1))
    return (clip + gray + rng.normal(0, 10, clip.shape)).round().clip(0, 255).astype(np.uint8)


def gamma(clip: Frames, power: float) -> Frames:
    """Raise brightness to a power: above 1 darkens, below 1 washes out."""
    return (255 * (clip / 255) ** power).clip(0, 255).astype(np.uint8)


def pixels(clip: Frames, block: int) -> Frames:
    """Replace blocks by one of their pixels."""
    small = clip[:, ::block, ::block].repeat(block, 1).repeat(block, 2)
    return np.ascontiguousarray(small[:, : clip.shape[1], : clip.shape[2]])


def shot_noise(clip: Frames, gain: float, rng: np.random.Generator) -> Frames:
    """Darken, with the noise of few photons."""
    return (rng.poisson(clip * (0.25 * gain)) * 4.0 + rng.normal(0, 4, clip.shape)).clip(0, 255).astype(np.uint8)


def interlace(clip: Frames, delay: int) -> Frames:
    """Take every second line from an earlier frame."""
    output = clip.copy()
    output[delay:, 1::2] = clip[:-delay, 1::2]
    return output


def analog(clip: Frames, sigma: float, rng: np.random.Generator) -> Frames:
    """Add streaks along the rows, and shift the colors against each other."""
    streaks = cv2.blur(rng.normal(0, 3.0 * sigma, clip.shape[:3]).reshape(-1, clip.shape[2]), (9, 1))
    shifted = np.stack([np.roll(clip[..., channel], 3 * channel, 2) for channel in range(3)], -1)
    return (shifted + streaks.reshape(*clip.shape[:3], 1)).round().clip(0, 255).astype(np.uint8)


def bloom(clip: Frames, gain: float, radius: float) -> Frames:
    """Overexpose, with light that spills over its surroundings."""
    bright = (clip.astype(np.float32) * gain).clip(0, 400)
    spilled = np.stack([cv2.GaussianBlur(frame, (0, 0), radius) for frame in bright])
    return (0.6 * bright + 0.7 * spilled).round().clip(0, 255).astype(np.uint8)
