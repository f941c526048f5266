"""Edits of footage: picture-in-picture, split screens, logos, frames, wipes and color effects.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter

Frames = UInt8[np.ndarray, "t h w c"]
Other = UInt8[np.ndarray, "t y x c"]
"""A clip of a different size."""
Corner = Literal["top left", "top right", "bottom left", "bottom right"]
CORNERS: tuple[Corner, ...] = ("top left", "top right", "bottom left", "bottom right")


def resize(clip: Frames, size: tuple[int, int]) -> Other:
    """Resize every frame to `size` (height, width)."""
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], bilinear)) for frame in clip])


def picture_in_picture(
    clip: Frames, inset: Other, corner: Corner, scale: float = 0.35, border: tuple[int, int, int] | None = None
) -> Frames:
    """Show a second clip in a corner.

    Args:
        scale: side of the second clip, as a fraction of the frame's.
        border: color of a thin border around it.
    """
    height, width = (round(scale * side) for side in clip.shape[1:3])
    top, left = _place(corner, (height, width), clip.shape[1:3])
    output = clip.copy()
    if border is not None:
        edge = max(1, clip.shape[1] // 80)
        output[:, top - edge : top + height + edge, left - edge : left + width + edge] = border
    output[:, top : top + height, left : left + width] = resize(inset, (height, width))
    return output


def split_screen(first: Frames, second: Frames, vertical: bool = True) -> Frames:
    """Show the middle halves of two clips side by side, or one above the other, with a thin line between them."""
    axis = 2 if vertical else 1
    half = first.shape[axis] // 2
    parts = [np.take(clip, np.arange(half // 2, half // 2 + half), axis=axis) for clip in (first, second)]
    joined = np.concatenate([*parts, parts[1]], axis=axis)
    joined = np.take(joined, np.arange(first.shape[axis]), axis=axis)
    line = max(1, first.shape[1] // 90)
    np.moveaxis(joined, axis, 0)[half - line : half + line] = 255
    return joined


def logo(clip: Frames, seed: int, corner: Corner, opacity: float = 0.9, shape: str = "ring") -> Frames:
    """Draw a small two-colored logo ("ring", "badge" or "star") into a corner."""
    rng = np.random.default_rng(seed)
    size = max(14, clip.shape[1] // 7)
    layer = Image.new("RGBA", (4 * size, 4 * size))
    draw = ImageDraw.Draw(layer)
    first, second = ((*(int(value) for value in rng.integers(0, 256, 3)), 255) for _ in range(2))
    if shape == "ring":
        draw.ellipse((0, 0, 4 * size - 1, 4 * size - 1), fill=first)
        draw.ellipse((size, size, 3 * size, 3 * size), fill=second)
    elif shape == "badge":
        draw.rounded_rectangle((0, size // 2, 4 * size - 1, 3 * size), size // 2, fill=first)
        draw.polygon([(size, size), (size, 5 * size // 2), (3 * size, 7 * size // 4)], fill=second)
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.8, 2.0) * size
        points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], -1) + 2 * size
        draw.polygon([(float(x), float(y)) for x, y in points], fill=first, outline=second)
    layer = layer.resize((size, size), Image.Resampling.LANCZOS)
    layer.putalpha(layer.getchannel("A").point(lambda alpha: round(alpha * opacity)))
    top, left = _place(corner, (size, size), clip.shape[1:3])
    return _paste(clip, layer, (left, top))


def blurred_sides(clip: Frames, fraction: float = 0.5) -> Frames:
    """Show the middle of a clip as an upright picture, before the same clip, enlarged, blurred and darkened.

    Args:
        fraction: width of the upright picture, as a fraction of the frame's.
    """
    height, width = clip.shape[1:3]
    inner = round(fraction * width)
    left = (width - inner) // 2
    output = np.empty_like(clip)
    for index, frame in enumerate(clip):
        image = Image.fromarray(frame)
        behind = image.resize((width * 2, height * 2)).crop((width // 2, height // 2, width * 3 // 2, height * 3 // 2))
        behind = behind.filter(ImageFilter.GaussianBlur(height / 12)).point(lambda value: value * 0.6)
        behind.paste(image.crop((left, 0, left + inner, height)), (left, 0))
        output[index] = np.asarray(behind)
    return output


def decorated_frame(clip: Frames, seed: int, fraction: float = 0.1) -> Frames:
    """Show a clip, smaller, in a colored frame with dots."""
    rng = np.random.default_rng(seed)
    height, width = clip.shape[1:3]
    image = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    color = tuple(int(value) for value in rng.integers(0, 256, 3))
    step = max(6, height // 14)
    for y in range(step // 2, height, step):
        for x in range(step // 2, width, step):
            draw.ellipse((x - step // 5, y - step // 5, x + step // 5, y + step // 5), fill=color)
    rows, columns = round(fraction * height), round(fraction * width)
    output = np.repeat(np.asarray(image)[None], len(clip), axis=0)
    output[:, rows : height - rows, columns : width - columns] = resize(clip, (height - 2 * rows, width - 2 * columns))
    return output


def wipe(first: Frames, second: Frames, start: int, length: int, vertical: bool = False) -> Frames:
    """Wipe from one clip to another along an edge that crosses the frame in `length` frames from `start`."""
    output = first.copy()
    axis = 1 if vertical else 2
    for index in range(len(first)):
        edge = round(first.shape[axis] * min(1.0, max(0.0, (index - start) / length)))
        np.moveaxis(output[index], axis - 1, 0)[:edge] = np.moveaxis(second[index], axis - 1, 0)[:edge]
    return output


def strobe(clip: Frames, period: int, effect: str = "invert") -> Frames:
    """Apply an effect ("invert", "mirror" or "tint") to every second stretch of `period` frames."""
    output = clip.copy()
    chosen = np.arange(len(clip)) // period % 2 == 1
    if effect == "invert":
        output[chosen] = 255 - clip[chosen]
    elif effect == "mirror":
        output[chosen] = clip[chosen, :, ::-1]
    else:
        output[chosen] = (clip[chosen] * np.array([1.0, 0.3, 0.6])).astype(np.uint8)
    return output


def _place(corner: Corner, size: tuple[int, int], frame: tuple[int, ...]) -> tuple[int, int]:
    margin = frame[0] // 20
    top = margin if "top" in corner else frame[0] - size[0] - margin
    return top, margin if "left" in corner else frame[1] - size[1] - margin


def _paste(clip: Frames, layer: Image.Image, position: tuple[int, int]) -> Frames:
    output = np.empty_like(clip)
    for index, frame in enumerate(clip):
        image = Image.fromarray(frame)
        image.paste(layer, position, layer)
        output[index] = np.asarray(image)
    return output
