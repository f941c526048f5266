"""Talking people: a drawn presenter, and a photograph of a face whose mouth and head move.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter
from torch.nn import functional

Frames = UInt8[np.ndarray, "t h w c"]


def presenter(
    num_frames: int, size: tuple[int, int], seed: int, fps: float = 24.0, place: Literal["office", "library"] = "office"
) -> Frames:
    """Draw a shaded person who talks and blinks.

    Args:
        place: "office" is a wall with a window, and the person moves a hand; "library" is shelves, and the person has
            a beard and glasses.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    scale = 2  # drawn larger, then reduced
    wall = Image.new("RGB", (width * scale, height * scale), tuple(int(value) for value in rng.integers(120, 225, 3)))
    draw = ImageDraw.Draw(wall)
    unit = height * scale
    if place == "office":
        left = rng.choice([0.05, 0.72]) * width * scale
        window = (left, unit * 0.1, left + 0.2 * width * scale, unit * 0.5)
        draw.rectangle(window, fill=(205, 225, 240), outline=(90, 80, 70))
    else:
        for shelf in range(5):
            x = 0.0
            while x < width * scale:
                book = float(rng.uniform(0.02, 0.06)) * unit
                color = _color(rng.uniform(60, 190, 3))
                draw.rectangle((x, (shelf + 0.15) * unit / 5, x + book, (shelf + 0.95) * unit / 5), fill=color)
                x += book + 2
    wall = wall.filter(ImageFilter.GaussianBlur(unit / 60))
    skin = np.array([215, 170, 140]) * rng.uniform(0.45, 1.1)
    hair = tuple(int(value) for value in rng.integers(15, 110, 3))
    jacket = tuple(int(value) for value in rng.integers(20, 160, 3))
    size_of_head = rng.uniform(0.9, 1.25)
    at = width * scale * rng.uniform(0.4, 0.6)
    phase = rng.uniform(0, 6, 4)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        seconds = index / fps
        image = wall.copy()
        draw = ImageDraw.Draw(image)
        r = unit * 0.17 * size_of_head
        x = at + r * 0.06 * np.sin(1.3 * seconds + phase[0])
        y = unit * 0.4 + r * 0.04 * np.sin(2.1 * seconds + phase[1])
        draw.rounded_rectangle((x - 2.1 * r, y + 1.5 * r, x + 2.1 * r, unit * 1.3), r, fill=jacket)
        draw.polygon([(x - 0.5 * r, y + 1.45 * r), (x + 0.5 * r, y + 1.45 * r), (x, y + 2.6 * r)], fill=(235, 235, 235))
        draw.rectangle((x - 0.35 * r, y + 0.8 * r, x + 0.35 * r, y + 1.6 * r), fill=_color(skin * 0.85))
        draw.ellipse((x - 1.05 * r, y - 1.45 * r, x + 1.05 * r, y + 0.9 * r), fill=hair)
        for step in range(6):  # shading: brighter toward the upper left
            shrink = 1 - 0.13 * step
            cx, cy = x - 0.07 * r * step, y - 0.07 * r * step
            tone = _color(skin * (0.82 + 0.045 * step))
            draw.ellipse(
                (cx - 0.88 * r * shrink, cy - 1.15 * r * shrink, cx + 0.88 * r * shrink, cy + 1.2 * r * shrink),
                fill=tone,
            )
        draw.pieslice((x - 0.92 * r, y - 1.3 * r, x + 0.92 * r, y + 0.3 * r), 180, 360, fill=hair)
        draw.ellipse((x - 0.75 * r, y - 0.75 * r, x + 0.75 * r, y + 0.5 * r), fill=_color(skin * 1.02))
        closed = (seconds + phase[2]) % 2.5 < 0.12
        for side in (-1, 1):
            ex, ey = x + side * 0.38 * r, y - 0.14 * r
            socket = (ex - 0.3 * r, ey - 0.16 * r, ex + 0.3 * r, ey + 0.14 * r)
            draw.ellipse(socket, fill=_color(skin * 0.55))
            if not closed:
                draw.ellipse((ex - 0.15 * r, ey - 0.06 * r, ex + 0.15 * r, ey + 0.07 * r), fill=(225, 225, 225))
                draw.ellipse((ex - 0.08 * r, ey - 0.07 * r, ex + 0.08 * r, ey + 0.08 * r), fill=(30, 22, 18))
            brow = (ex - 0.28 * r, ey - 0.26 * r, ex + 0.28 * r, ey - 0.14 * r)
            draw.rounded_rectangle(brow, 0.06 * r, fill=_color(np.array(hair) * 0.6))
            cheek = (x + side * 0.45 * r - 0.26 * r, y + 0.1 * r, x + side * 0.45 * r + 0.26 * r, y + 0.55 * r)
            draw.ellipse(cheek, fill=_color(skin * 1.12))
        draw.rounded_rectangle((x - 0.1 * r, y - 0.3 * r, x + 0.1 * r, y + 0.3 * r), 0.1 * r, fill=_color(skin * 1.15))
        draw.ellipse((x - 0.16 * r, y + 0.26 * r, x + 0.16 * r, y + 0.4 * r), fill=_color(skin * 0.6))
        opening = 0.05 + 0.13 * abs(np.sin(8.0 * seconds + phase[3]) * np.sin(1.9 * seconds + phase[0]))
        draw.ellipse((x - 0.3 * r, y + (0.66 - opening) * r, x + 0.3 * r, y + (0.66 + opening) * r), fill=(120, 45, 45))
        if place == "office":
            hx = x + 1.6 * r + 0.3 * r * np.sin(2.7 * seconds + phase[1])
            hy = unit * 0.86 - 0.25 * r * np.sin(1.8 * seconds + phase[2])
            draw.ellipse((hx - 0.3 * r, hy - 0.38 * r, hx + 0.3 * r, hy + 0.38 * r), fill=_color(skin * 0.95))
        else:
            draw.pieslice((x - 0.72 * r, y + 0.1 * r, x + 0.72 * r, y + 1.3 * r), 35, 145, fill=hair)
            for side in (-1, 1):
                ex, ey = x + side * 0.38 * r, y - 0.13 * r
                box = (ex - 0.3 * r, ey - 0.2 * r, ex + 0.3 * r, ey + 0.2 * r)
                draw.ellipse(box, outline=(25, 25, 30), width=max(1, round(0.04 * r)))
        image = image.filter(ImageFilter.GaussianBlur(scale * 0.6)).resize((width, height), Image.Resampling.BOX)
        frames[index] = np.asarray(image)
    return frames


def talking_photo(
    photo: UInt8[np.ndarray, "h w c"],
    face: tuple[float, float, float],
    num_frames: int,
    seed: int,
    fps: float = 24.0,
    sway: float = 0.05,
) -> Frames:
    """Move the mouth, the head and the brows of a photograph, as if the person talked.

    Args:
        face: x and y of the face's center and half its height, in pixels.
        sway: largest displacement of the head, as a fraction of half the face's height.
    """
    rng = np.random.default_rng(seed)
    height, width = photo.shape[:2]
    x0, y0, r = face
    y, x = (torch.from_numpy(axis.astype(np.float32)) for axis in np.mgrid[:height, :width])
    head = torch.exp(-((((x - x0) / (1.3 * r)) ** 2 + ((y - y0) / (1.6 * r)) ** 2) ** 2))
    mouth_y = y0 + 0.52 * r
    mouth = torch.exp(-(((x - x0) / (0.42 * r)) ** 2 + ((y - mouth_y) / (0.4 * r)) ** 2))
    brows = torch.exp(-(((x - x0) / (0.7 * r)) ** 2 + ((y - y0 + 0.38 * r) / (0.2 * r)) ** 2))
    image = torch.from_numpy(photo.astype(np.float32)).permute(2, 0, 1)[None]
    phase = rng.uniform(0, 6, 5)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        seconds = index / fps
        opening = float(0.35 * abs(np.sin(8.5 * seconds + phase[0]) * np.sin(2.0 * seconds + phase[1])))
        dx = head * float(sway * r * np.sin(1.4 * seconds + phase[2]))
        dy = head * float(0.6 * sway * r * np.sin(1.9 * seconds + phase[3]))
        dy = dy + mouth * torch.sign(y - mouth_y) * torch.sqrt((y - mouth_y).abs() * r * 0.3) * opening
        dy = dy - brows * float(0.03 * r * np.sin(1.1 * seconds + phase[4]))
        grid = torch.stack([(x - dx + 0.5) * 2 / width - 1, (y - dy + 0.5) * 2 / height - 1], -1)[None]
        warped = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
        frames[index] = warped[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return frames


def _color(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values.clip(0, 255))
    return red, green, blue
