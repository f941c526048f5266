"""Degradations of known strength: compression, blur, noise, exposure, borders, moire.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

Frames = UInt8[np.ndarray, "t h w c"]


def jpeg(clip: Frames, quality: int) -> Frames:
    """Compress every frame as JPEG of quality 1 to 95. Low qualities have visible 8x8 blocks."""
    output = np.empty_like(clip)
    for index, frame in enumerate(clip):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=2)
        output[index] = np.asarray(Image.open(buffer))
    return output


def blur(clip: Frames, radius: float) -> Frames:
    """Blur every frame by a Gaussian of `radius` pixels."""
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in clip])


def enlarge(clip: Frames, factor: float) -> Frames:
    """Downscale every frame by `factor` and upscale it again, as in videos that were enlarged."""
    height, width = clip.shape[1:3]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    bilinear = Image.Resampling.BILINEAR
    images = (Image.fromarray(frame).resize(small, bilinear).resize((width, height), bilinear) for frame in clip)
    return np.stack([np.asarray(image) for image in images])


def noise(clip: Frames, sigma: float, seed: int) -> Frames:
    """Add independent Gaussian noise of standard deviation `sigma` (in units of 8-bit values) to every value."""
    rng = np.random.default_rng(seed)
    return (clip + rng.normal(0.0, sigma, clip.shape)).round().clip(0, 255).astype(np.uint8)


def expose(clip: Frames, gain: float) -> Frames:
    """Multiply the brightness by `gain` and clip it at white."""
    return (clip * float(gain)).round().clip(0, 255).astype(np.uint8)


def add_borders(clip: Frames, fraction: float, vertical: bool = True) -> Frames:
    """Cover `fraction` of the height (or width) on both sides with black borders."""
    bordered = clip.copy()
    rows = round(fraction * clip.shape[1 if vertical else 2])
    if rows:
        axis = 1 if vertical else 2
        bordered = np.moveaxis(bordered, axis, 0)
        bordered[:rows] = bordered[-rows:] = 0
        bordered = np.moveaxis(bordered, 0, axis)
    return np.ascontiguousarray(bordered)


def moire(clip: Frames, period: float, angle: float, strength: float = 0.35, drift: float = 0.2) -> Frames:
    """Add the colored stripes that appear when a camera films a screen.

    Args:
        period: period of the stripes, in pixels.
        angle: direction across the stripes, in radians.
        strength: contrast of the stripes, 0 to 1.
        drift: movement of the stripes, in periods per frame.
    """
    y, x = np.mgrid[: clip.shape[1], : clip.shape[2]]
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period
    output = np.empty_like(clip)
    for index, frame in enumerate(clip):
        waves = [np.sin(2 * np.pi * (phase + drift * index + channel / 3)) for channel in range(3)]
        output[index] = (frame * (1.0 + strength * np.stack(waves, -1))).round().clip(0, 255)
    return output
