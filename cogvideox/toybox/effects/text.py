"""Text on clips: titles, subtitles, watermarks and tickers on top of the frames, and text that is part of the scene.

Sizes are fractions of the frame's height. Axes: `t` frames, `h w` pixels, `c` RGB.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Frames = UInt8[np.ndarray, "t h w c"]
Anchor = Literal["top", "center", "bottom", "top left", "top right", "bottom left", "bottom right"]

_WORDS = """the river is calm at dawn and nobody is awake yet subscribe now for daily news weather report breaking story
market prices rise again best offers of the week episode seven how to build a wooden table welcome back friends part two
of our journey across the northern coast live from the stadium final score tonight"""


@dataclass(frozen=True)
class TextStyle:
    """Style of drawn text.

    Attributes:
        font: path or name of a TrueType font; None for Pillow's default font.
        size: height of a line, as a fraction of the frame's height.
        color: RGB of the letters.
        outline: RGB of a thin outline; None for no outline.
        box: RGB of a filled box behind the text; None for no box.
        opacity: 0 to 1.
    """

    font: str | None = None
    size: float = 0.07
    color: tuple[int, int, int] = (255, 255, 255)
    outline: tuple[int, int, int] | None = (0, 0, 0)
    box: tuple[int, int, int] | None = None
    opacity: float = 1.0


def sentence(seed: int, num_words: int) -> str:
    """Return `num_words` random words."""
    return " ".join(np.random.default_rng(seed).choice(_WORDS.split(), num_words))


def overlay(
    clip: Frames, text: str, anchor: Anchor = "bottom", style: TextStyle | None = None
) -> tuple[Frames, tuple[int, int, int, int]]:
    """Draw text at a fixed position in every frame.

    Returns:
        The clip, and the bounding box of the text: left, top, right, bottom, in pixels.
    """
    style = style or TextStyle()
    height, width = clip.shape[1:3]
    layer = _text_layer(text, style, height)
    left, top = _place(anchor, layer.size, width, height)
    return _paste(clip, layer, [(left, top)] * len(clip)), (left, top, left + layer.width, top + layer.height)


def ticker(clip: Frames, text: str, speed: float, style: TextStyle | None = None) -> Frames:
    """Draw a band at the bottom in which text scrolls to the left by `speed` pixels per frame."""
    style = style or TextStyle(box=(160, 0, 0), outline=None)
    height, width = clip.shape[1:3]
    layer = _text_layer(text, style, height)
    band = Image.new("RGBA", (width, layer.height), (*(style.box or (0, 0, 0)), round(255 * style.opacity)))
    top = height - layer.height
    with_band = _paste(clip, band, [(0, top)] * len(clip))
    return _paste(with_band, layer, [(round(width * 0.6 - speed * index), top) for index in range(len(clip))])


def subtitles(clip: Frames, lines: list[str], style: TextStyle | None = None) -> Frames:
    """Show lines at the bottom one after the other, each for an equal part of the clip."""
    edges = np.linspace(0, len(clip), len(lines) + 1).round().astype(int)
    spans = zip(lines, edges, edges[1:], strict=False)
    return np.concatenate([overlay(clip[start:end], line, "bottom", style)[0] for line, start, end in spans])


def paint(
    canvas: UInt8[np.ndarray, "y x c"],
    text: str,
    position: tuple[int, int],
    height: int,
    style: TextStyle | None = None,
) -> UInt8[np.ndarray, "y x c"]:
    """Draw text onto a canvas that a camera then films, so that the text is part of the scene, such as a sign.

    Args:
        position: left and top, in pixels of the canvas.
        height: frame height that `style.size` is relative to.
    """
    layer = _text_layer(text, style or TextStyle(box=(230, 230, 220), color=(20, 30, 60), outline=None), height)
    return _paste(canvas[None], layer, [position])[0]


@lru_cache(maxsize=64)
def _font(name: str | None, pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels) if name is None else ImageFont.truetype(name, pixels)


def _text_layer(text: str, style: TextStyle, height: int) -> Image.Image:
    pixels = max(6, round(style.size * height))
    stroke = 0 if style.outline is None else max(1, pixels // 14)
    font = _font(style.font, pixels)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    pad = pixels // 4
    size = (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad)
    layer = Image.new("RGBA", size, (*style.box, 255) if style.box else (0, 0, 0, 0))
    ImageDraw.Draw(layer).text(
        (pad - left, pad - top), text, style.color, font, stroke_width=stroke, stroke_fill=style.outline
    )
    layer.putalpha(layer.getchannel("A").point(lambda alpha: round(alpha * style.opacity)))
    return layer


def _place(anchor: Anchor, size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    margin = height // 20
    left = margin if "left" in anchor else width - size[0] - margin if "right" in anchor else (width - size[0]) // 2
    top = margin if "top" in anchor else height - size[1] - margin if "bottom" in anchor else (height - size[1]) // 2
    return left, top


def _paste(clip: Frames, layer: Image.Image, positions: list[tuple[int, int]]) -> Frames:
    output = np.empty_like(clip)
    for index, (frame, position) in enumerate(zip(clip, positions, strict=True)):
        image = Image.fromarray(frame)
        image.paste(layer, position, layer)
        output[index] = np.asarray(image)
    return output
