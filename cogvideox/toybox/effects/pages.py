"""Text-dominated clips: rolling credits, title cards, lyrics over footage.

Sizes are fractions of the frame's height. Axes: `t` frames, `h w` pixels, `c` RGB.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cogvideox.toybox.effects.text import TextStyle, overlay, paint, sentence

Frames = UInt8[np.ndarray, "t h w c"]


def credits_roll(
    num_frames: int, size: tuple[int, int], seed: int, style: TextStyle, color: tuple[int, int, int]
) -> Frames:
    """Roll lines of text upward over a plain color."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows = int(2.2 / (1.5 * style.size))
    canvas = np.asarray(Image.new("RGB", (width, round(height * 2.4)), color))
    for row in range(rows):
        line = sentence(seed * 71 + row, int(rng.integers(2, 5)))
        left = round(width * rng.uniform(0.05, 0.3))
        canvas = paint(canvas, line, (left, round(height * 1.5 * style.size * row)), height, style)
    tops = np.linspace(0, rng.uniform(0.4, 1.0) * height, num_frames).round().astype(int)
    return np.stack([canvas[top : top + height] for top in tops])


def title_card(clip: Frames, seed: int, num_lines: int, style: TextStyle) -> Frames:
    """Draw lines of text over the middle of every frame of a clip."""
    height, width = clip.shape[1:3]
    rng = np.random.default_rng(seed)
    layer = clip
    top = 0.5 - 0.65 * style.size * num_lines
    for line in range(num_lines):
        text = sentence(seed * 43 + line, int(rng.integers(2, 6)))
        position = (round(width * rng.uniform(0.03, 0.15)), round(height * (top + 1.3 * style.size * line)))
        layer = np.stack([paint(frame, text, position, height, style) for frame in layer])
    return layer


def captions_over(clip: Frames, seed: int, style: TextStyle, num_words: int = 4) -> Frames:
    """Show large text at the top, center and bottom of a clip at once, as in lyric videos and memes."""
    for number, anchor in enumerate(("top", "center", "bottom")):
        clip, _ = overlay(clip, sentence(seed * 19 + number, num_words), anchor, style)
    return clip
