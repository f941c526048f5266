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


def rotation_blur(clip: Frames, degrees: float) -> Frames:
    """Average rotated copies of each frame."""
    height, width = clip.shape[1:3]
    center, angles = (width / 2, height / 2), np.linspace(-degrees / 2, degrees / 2, 9)
    turns = [cv2.getRotationMatrix2D(center, float(angle), 1.0) for angle in angles]
    edge = cv2.BORDER_REPLICATE
    copies = [np.mean([cv2.warpAffine(f, turn, (width, height), borderMode=edge) for turn in turns], 0) for f in clip]
    return np.stack(copies).round().astype(np.uint8)


def trajectory_blur(clip: Frames, length: float, rng: np.random.Generator) -> Frames:
    """Blur along a curved path, as a camera that shakes during a long exposure does."""
    turns = np.cumsum(rng.normal(0, 0.35, 48)) + rng.uniform(0, 2 * np.pi)
    path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], -1), 0)
    path = (path - path.mean(0)) * length / max(float(np.ptp(path, axis=0).max()), 1.0)
    reach = int(np.ceil(np.abs(path).max())) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    np.add.at(kernel, tuple((path.round().astype(int) + reach).T), 1.0)
    kernel = cv2.GaussianBlur(kernel / kernel.sum(), (0, 0), 0.7)
    return np.stack([cv2.filter2D(frame, -1, kernel) for frame in clip])


def tone_curve(clip: Frames, strength: float) -> Frames:
    """Apply the curve x / (x + strength (1 - x)): above 1 darkens, below 1 brightens."""
    x = clip / 255
    return (255 * x / (x + strength * (1 - x))).round().clip(0, 255).astype(np.uint8)


def old_film(clip: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Gray or brown pictures with coarse speckles, scratches, dust and flicker."""
    number, height, width = clip.shape[:3]
    gray = np.repeat(clip.mean(-1, keepdims=True), 3, -1) * rng.choice([[1.0, 1.0, 1.0], [1.05, 0.95, 0.75]])
    output = np.empty_like(clip)
    scratch = rng.uniform(0, width, 2)
    for index in range(number):
        speckles = cv2.GaussianBlur(rng.normal(0, 1.0, (height, width)), (0, 0), 0.8)
        picture = gray[index] * (1 + 0.9 * strength * speckles[..., None]) * rng.uniform(1 - strength, 1 + strength)
        scratch += rng.normal(0, 1.5, 2)
        picture[:, (scratch % width).astype(int)] = rng.choice([30.0, 225.0])
        for _ in range(int(rng.integers(0, 6))):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            picture[y : y + int(rng.integers(2, 6)), x : x + int(rng.integers(2, 5))] = rng.choice([20.0, 235.0])
        output[index] = picture.round().clip(0, 255)
    return output


def impulse_noise(clip: Frames, fraction: float, rng: np.random.Generator) -> Frames:
    """Replace a fraction of the pixels by black or white."""
    draw = rng.random(clip.shape[:3])
    output = clip.copy()
    output[draw < fraction / 2], output[draw > 1 - fraction / 2] = 0, 255
    return output


def lost_blocks(clip: Frames, fraction: float, rng: np.random.Generator) -> Frames:
    """Replace rows of 16x16 blocks by parts of earlier frames from other places, as after lost packets."""
    output = clip.copy()
    rows, columns = clip.shape[1] // 16, clip.shape[2] // 16
    for index in range(1, len(clip)):
        for row in np.flatnonzero(rng.random(rows) < fraction):
            first = int(rng.integers(columns)) * 16
            part = np.s_[row * 16 : row * 16 + 16, first:]
            shifted = np.roll(output[max(0, index - int(rng.integers(1, 5)))], rng.integers(-40, 40, 2), (0, 1))
            output[index][part] = shifted[part]
    return output
