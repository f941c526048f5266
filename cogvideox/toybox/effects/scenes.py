"""Scenes with negative labels: slides, screen recordings, and a person who talks to the camera.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cogvideox.toybox.effects.text import TextStyle, overlay, paint, sentence

Frames = UInt8[np.ndarray, "t h w c"]


@dataclass(frozen=True)
class ColorScheme:
    """RGB colors of a page."""

    background: tuple[int, int, int] = (250, 250, 248)
    text: tuple[int, int, int] = (30, 30, 40)
    accent: tuple[int, int, int] = (30, 90, 180)


LIGHT = ColorScheme()
DARK = ColorScheme((24, 26, 32), (220, 222, 226), (90, 200, 140))


def slides(
    num_frames: int,
    size: tuple[int, int],
    seed: int,
    num_pages: int = 2,
    scheme: ColorScheme = LIGHT,
    font: str | None = None,
) -> Frames:
    """Show slides one after the other, each with a title, lines of text and sometimes a bar chart."""
    rng = np.random.default_rng(seed)
    pages = []
    for page in range(num_pages):
        image = Image.new("RGB", size[::-1], scheme.background)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, size[1], size[0] // 40), fill=scheme.accent)
        frame = np.asarray(image)[None]
        title = TextStyle(font, 0.09, scheme.accent, None)
        frame, _ = overlay(frame, sentence(seed * 97 + page, 3).title(), "top left", title)
        style = TextStyle(font, 0.055, scheme.text, None)
        frame = _text_lines(frame, int(rng.integers(3, 6)), seed * 89 + 10 * page, style)
        pages.append(_bars(frame[0], rng, scheme) if rng.random() < 0.5 else frame[0])
    return np.stack([pages[index * num_pages // num_frames] for index in range(num_frames)])


def screen_recording(
    num_frames: int, size: tuple[int, int], seed: int, scheme: ColorScheme = LIGHT, font: str | None = None
) -> Frames:
    """Draw a desktop with windows, text that is typed into one of them, and a moving pointer."""
    rng = np.random.default_rng(seed)
    height, width = size
    desktop = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(40, 140, 3)))
    draw = ImageDraw.Draw(desktop)
    draw.rectangle((0, height - height // 16, width, height), fill=(45, 45, 50))
    left, top = 0.0, 0.0
    for _ in range(int(rng.integers(1, 3))):
        left, top = rng.uniform(0.02, 0.3) * width, rng.uniform(0.02, 0.2) * height
        right, bottom = left + rng.uniform(0.5, 0.65) * width, top + rng.uniform(0.55, 0.68) * height
        draw.rectangle((left, top, right, bottom), fill=scheme.background, outline=(90, 90, 90))
        draw.rectangle((left, top, right, top + height * 0.06), fill=scheme.accent)
        for button in range(3):
            x = right - (button + 1) * height * 0.05
            draw.rectangle((x, top + height * 0.015, x + height * 0.03, top + height * 0.045), fill=(235, 235, 235))
    style = TextStyle(font, 0.045, scheme.text, None)
    lines = [sentence(seed * 31 + line, 5) for line in range(6)]
    start, end = rng.uniform(0.2, 0.8, (2, 2)) * (width, height)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    total = sum(map(len, lines))
    for index in range(num_frames):
        image = desktop.copy()
        typed = int(total * (0.3 + 0.7 * index / max(1, num_frames - 1)))
        frame = np.asarray(image)[None]
        for row, line in enumerate(lines):
            part, typed = line[: max(0, typed)], typed - len(line)
            if part.strip():
                frame = _text_at(frame, part, (left + height * 0.03, top + height * (0.1 + 0.07 * row)), style)
        x, y = start + (end - start) * index / max(1, num_frames - 1)
        frames[index] = _pointer(frame[0], x, y, height * 0.05)
    return frames


def talking_head(num_frames: int, size: tuple[int, int], seed: int, fps: float = 24.0) -> Frames:
    """Draw a person who talks to the camera in front of shelves. Only the mouth and, slightly, the head move."""
    rng = np.random.default_rng(seed)
    height, width = size
    shelves = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(90, 160, 3)))
    draw = ImageDraw.Draw(shelves)
    for row in range(4):
        x = 0.0
        while x < width:
            book = float(rng.uniform(0.015, 0.04)) * width
            color = tuple(int(value) for value in rng.integers(30, 220, 3))
            draw.rectangle((x, (row + 0.1) * height / 4, x + book, (row + 0.95) * height / 4), fill=color)
            x += book + 1
    skin = np.array([224, 182, 150]) * rng.uniform(0.55, 1.05)
    shirt = tuple(int(value) for value in rng.integers(20, 200, 3))
    phase = rng.uniform(0, 6, 3)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        seconds = index / fps
        image = shelves.copy()
        draw = ImageDraw.Draw(image)
        x = width * 0.5 + height * 0.008 * np.sin(1.7 * seconds + phase[0])
        y = height * 0.42 + height * 0.005 * np.sin(2.3 * seconds + phase[1])
        _ellipse(draw, (x, height * 1.02), (height * 0.42, height * 0.36), shirt)
        _ellipse(draw, (x, y), (height * 0.17, height * 0.23), tuple(skin.clip(0, 255).astype(int)))
        _ellipse(draw, (x, y - height * 0.17), (height * 0.18, height * 0.1), tuple((skin * 0.3).astype(int)))
        for side in (-1, 1):
            _ellipse(
                draw, (x + side * height * 0.065, y - height * 0.03), (height * 0.028, height * 0.015), (250, 250, 250)
            )
            _ellipse(
                draw, (x + side * height * 0.065, y - height * 0.03), (height * 0.012, height * 0.012), (30, 30, 30)
            )
        opening = 0.006 + 0.022 * abs(np.sin(9.0 * seconds + phase[2]) * np.sin(2.1 * seconds))
        _ellipse(draw, (x, y + height * 0.12), (height * 0.055, height * opening), (110, 40, 45))
        frames[index] = np.asarray(image)
    return frames


def _text_lines(frame: Frames, num_lines: int, seed: int, style: TextStyle) -> Frames:
    height = frame.shape[1]
    for line in range(num_lines):
        frame = _text_at(frame, "- " + sentence(seed + line, 5), (height * 0.1, height * (0.26 + 0.11 * line)), style)
    return frame


def _text_at(frame: Frames, text: str, position: tuple[float, float], style: TextStyle) -> Frames:
    return paint(frame[0], text, (round(position[0]), round(position[1])), frame.shape[1], style)[None]


def _bars(frame: np.ndarray, rng: np.random.Generator, scheme: ColorScheme) -> np.ndarray:
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    height, width = frame.shape[:2]
    for bar, value in enumerate(rng.uniform(0.1, 0.45, 4)):
        left = width * (0.66 + 0.07 * bar)
        draw.rectangle((left, height * (0.9 - value), left + width * 0.05, height * 0.9), fill=scheme.accent)
    return np.asarray(image)


def _pointer(frame: np.ndarray, x: float, y: float, size: float) -> np.ndarray:
    image = Image.fromarray(frame)
    arrow = [(x, y), (x, y + size), (x + size * 0.28, y + size * 0.72), (x + size * 0.7, y + size * 0.7)]
    ImageDraw.Draw(image).polygon(arrow, fill=(255, 255, 255), outline=(0, 0, 0))
    return np.asarray(image)


def _ellipse(draw: ImageDraw.ImageDraw, center: tuple[float, float], radii: tuple[float, float], color: tuple) -> None:
    (x, y), (a, b) = center, radii
    draw.ellipse((x - a, y - b, x + a, y + b), fill=tuple(int(value) for value in color))
