"""Test cards: pictures in which only a clock or a counter changes.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cogvideox.toybox.effects.text import TextStyle, overlay

_BARS = ((192, 192, 192), (192, 192, 0), (0, 192, 192), (0, 192, 0), (192, 0, 192), (192, 0, 0), (0, 0, 192))


def draw_test_card(
    num_frames: int, size: tuple[int, int], fps: float, font: str | None, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "t h w c"], bool]:
    """Return a test card with a running clock or counter, and whether its text is large."""
    card, style_size = draw_pattern(size, rng), float(rng.uniform(0.07, 0.24))
    color, box = ((250, 250, 250), (0, 0, 0)) if rng.random() < 0.6 else ((10, 10, 10), (240, 240, 240))
    style = TextStyle(font, style_size, color, None, box if rng.random() < 0.8 else None)
    anchor = rng.choice(["center", "top", "bottom"])
    first, counts = int(rng.integers(0, 3000)), bool(rng.random() < 0.5)
    frames = []
    for index in range(num_frames):
        seconds, frame = divmod(first + index, round(fps))
        text = str(first + index) if counts else f"{seconds // 60:02d}:{seconds % 60:02d}:{frame:02d}"
        image = overlay(card[None], text, anchor, style)[0]
        if style_size < 0.12:
            label = TextStyle(font, 0.06, color, None, box)
            image = overlay(image, f"{size[1]}x{size[0]} {fps:g} fps", "top left", label)[0]
        frames.append(image[0])
    return np.stack(frames), style_size > 0.12


def draw_pattern(size: tuple[int, int], rng: np.random.Generator) -> UInt8[np.ndarray, "h w c"]:
    """Draw color bars, gray steps, a grid with a circle, or a color gradient."""
    height, width = size
    kind = rng.choice(["bars", "steps", "grid", "gradient"])
    if kind == "gradient":
        ramp = np.stack(np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height)), -1)
        mixed = ramp @ rng.uniform(0, 255, (2, 3)) / 2 + rng.uniform(0, 80, 3)
        return mixed.clip(0, 255).astype(np.uint8)
    image = Image.new("RGB", (width, height), (110, 110, 110))
    draw = ImageDraw.Draw(image)
    if kind in ("bars", "steps"):
        colors = list(_BARS) if kind == "bars" else [(value,) * 3 for value in range(15, 256, 30)]
        edges = np.linspace(0, width, len(colors) + 1).round().astype(int)
        foot = round(height * rng.uniform(0.6, 1.0))
        for color, left, right in zip(colors, edges, edges[1:], strict=False):
            draw.rectangle((int(left), 0, int(right), foot), fill=color)
        for color, left, right in zip(colors[::-1], edges, edges[1:], strict=False):
            draw.rectangle((int(left), foot, int(right), height), fill=tuple(value // 3 for value in color))
    else:
        step = int(rng.integers(14, 32))
        for x in range(0, width, step):
            draw.line((x, 0, x, height), fill=(230, 230, 230))
        for y in range(0, height, step):
            draw.line((0, y, width, y), fill=(230, 230, 230))
        radius = round(0.42 * height)
        box = (width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)
        draw.ellipse(box, outline=(255, 255, 255), width=2)
        draw.rectangle((width // 2 - radius // 2, height // 4, width // 2 + radius // 2, height // 3), fill=(0, 0, 0))
    return np.asarray(image)
