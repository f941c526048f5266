"""Recorded and filmed screens: terminals, scrolled pages, footage in a window, a screen before a camera.

Sizes are fractions of the frame's height. Axes: `t` frames, `h w` pixels, `c` RGB.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cogvideox.toybox.effects.degradation import moire
from cogvideox.toybox.effects.edits import resize
from cogvideox.toybox.effects.scenes import ColorScheme
from cogvideox.toybox.effects.text import TextStyle, paint, sentence

Frames = UInt8[np.ndarray, "t h w c"]


def terminal(
    num_frames: int, size: tuple[int, int], seed: int, scheme: ColorScheme, font: str | None = None, title: bool = False
) -> Frames:
    """Record a terminal in which lines are typed.

    Args:
        title: draw a title bar with three round buttons.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    canvas = Image.new("RGB", (width, height), scheme.background)
    draw = ImageDraw.Draw(canvas)
    top = height // 12 if title else 0
    if title:
        draw.rectangle((0, 0, width, top), fill=(222, 222, 225))
        for button, color in enumerate([(237, 106, 94), (245, 191, 79), (98, 197, 84)]):
            x, radius = top * (0.6 + 0.8 * button), top * 0.25
            draw.ellipse((x - radius, top / 2 - radius, x + radius, top / 2 + radius), fill=color)
    line_height = float(rng.uniform(0.055, 0.085))
    rows = int(rng.integers(3, max(4, int(0.8 / line_height / 1.3))))
    lines = [f"$ {sentence(seed * 131 + row, int(rng.integers(2, 6)))}" for row in range(rows)]
    total, begin = sum(map(len, lines)), rng.uniform(0.05, 0.6)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    painted, shown = np.asarray(canvas), -1
    for index in range(num_frames):
        typed = int(total * (begin + (1 - begin) * index / max(1, num_frames - 1)))
        if typed != shown:
            painted, left, shown = np.asarray(canvas), typed, typed
            for row, line in enumerate(lines):
                part, left = line[: max(0, left)], left - len(line)
                if part.strip():
                    color = scheme.accent if row % 2 else scheme.text
                    style = TextStyle(font, line_height, color, None)
                    painted = paint(
                        painted,
                        part,
                        (height // 25, round(top + height * (0.03 + 1.3 * line_height * row))),
                        height,
                        style,
                    )
        frames[index] = painted
    return frames


def page(
    size: tuple[int, int], seed: int, scheme: ColorScheme, font: str | None = None, screens: int = 3
) -> np.ndarray:
    """Draw a web page or document that is `screens` frames high: headings, lines of text, pictures and a sidebar."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = Image.new("RGB", (width, height * screens), scheme.background)
    draw = ImageDraw.Draw(image)
    side = round(width * rng.choice([0.0, 0.2, 0.25]))
    if side:
        draw.rectangle((0, 0, side, height * screens), fill=tuple(int(0.9 * value + 10) for value in scheme.background))
    painted = np.asarray(image)
    y, line_height = height * 0.04, float(rng.uniform(0.042, 0.06))
    count = 0
    while y < height * (screens - 0.15):
        count += 1
        kind = rng.choice(["heading", "lines", "lines", "picture", "table"])
        left = side + width // 30
        if kind == "heading":
            style = TextStyle(font, 1.5 * line_height, scheme.accent, None)
            painted = paint(painted, sentence(seed * 61 + count, 3).title(), (left, round(y)), height, style)
            y += height * 2.2 * line_height
        elif kind == "lines":
            for _ in range(int(rng.integers(2, 5))):
                count += 1
                style = TextStyle(font, line_height, scheme.text, None)
                painted = paint(painted, sentence(seed * 61 + count, 7), (left, round(y)), height, style)
                y += height * 1.35 * line_height
        else:
            image = Image.fromarray(painted)
            draw = ImageDraw.Draw(image)
            right, bottom = left + width * rng.uniform(0.3, 0.6), y + height * rng.uniform(0.15, 0.3)
            color = tuple(int(value) for value in rng.integers(60, 220, 3))
            if kind == "picture":
                draw.rectangle((left, y, right, bottom), fill=color)
                draw.polygon([(left, bottom), ((left + right) / 2, y), (right, bottom)], fill=scheme.accent)
            else:
                for row in range(5):
                    at = y + (bottom - y) * row / 4
                    draw.line((left, at, right, at), fill=scheme.text)
                for column in range(4):
                    at = left + (right - left) * column / 3
                    draw.line((at, y, at, bottom), fill=scheme.text)
            painted = np.asarray(image)
            y = bottom + height * 0.04
    return painted


def scroll(document: UInt8[np.ndarray, "y w c"], num_frames: int, height: int, seed: int) -> Frames:
    """Record a window that scrolls over a document in jerks, with a pointer."""
    rng = np.random.default_rng(seed)
    stops = np.sort(rng.uniform(0, len(document) - height, 4))
    times = np.linspace(0, 3, num_frames)
    eased = np.floor(times) + np.clip((times % 1) * 3 - 1, 0, 1)
    tops = np.interp(eased, np.arange(4), stops).round().astype(int)
    x, y = rng.uniform(0.2, 0.8, 2) * (document.shape[1], height)
    return np.stack([_pointer(document[top : top + height], x, y, height * 0.05) for top in tops])


def window(clip: Frames, seed: int, scheme: ColorScheme, font: str | None = None) -> Frames:
    """Record a desktop on which a clip plays in a window with controls and a pointer."""
    rng = np.random.default_rng(seed)
    height, width = clip.shape[1:3]
    desktop = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(30, 230, 3)))
    draw = ImageDraw.Draw(desktop)
    draw.rectangle((0, height - height // 14, width, height), fill=(40, 42, 48))
    for icon in range(int(rng.integers(3, 8))):
        x = width * 0.03 + icon * height / 12
        color = tuple(int(value) for value in rng.integers(80, 255, 3))
        draw.rectangle((x, height * 0.945, x + height / 22, height * 0.985), fill=color)
    inner = (round(height * rng.uniform(0.5, 0.65)), round(width * rng.uniform(0.5, 0.65)))
    top, left = round(height * rng.uniform(0.1, 0.2)), round(width * rng.uniform(0.03, 0.3))
    draw.rectangle((left, top - height // 16, left + inner[1], top), fill=scheme.background)
    draw.rectangle((left, top + inner[0], left + inner[1], top + inner[0] + height // 16), fill=scheme.background)
    draw.line(
        (left + 4, top + inner[0] + height // 32, left + inner[1] - 4, top + inner[0] + height // 32), fill=scheme.text
    )
    canvas = paint(
        np.asarray(desktop),
        sentence(seed, 3),
        (left, top - height // 16),
        height,
        TextStyle(font, 0.045, scheme.text, None),
    )
    frames = np.repeat(canvas[None], len(clip), axis=0)
    frames[:, top : top + inner[0], left : left + inner[1]] = resize(clip, inner)
    start, end = rng.uniform(0.2, 0.8, (2, 2)) * (width, height)
    path = start + (end - start) * np.linspace(0, 1, len(clip))[:, None]
    return np.stack([_pointer(frame, x, y, height * 0.06) for frame, (x, y) in zip(frames, path)])


def filmed_screen(
    clip: Frames, seed: int, period: float, strength: float = 0.25, sway: float = 0.004, tilt: float = 0.12
) -> Frames:
    """Film a screen with a hand-held camera: bezel, perspective, moire, a glare and a dark surrounding.

    Args:
        period: period of the moire stripes, in pixels.
        sway: motion of the hand, as a fraction of the frame's height.
        tilt: largest displacement of the screen's corners, as a fraction of the frame's size.
    """
    rng = np.random.default_rng(seed)
    height, width = clip.shape[1:3]
    shown = moire(clip, period, float(rng.uniform(0.2, 1.3)), strength, float(rng.uniform(0.0, 0.3)))
    shown = (shown * 0.8 + 20).astype(np.uint8)
    wall = tuple(int(value) for value in rng.integers(20, 110, 3))
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    inset = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * rng.uniform(0.02, tilt, (4, 2))
    corners = (corners + inset) * (width, height)
    bezel = max(3, height // 30)
    y, x = np.mgrid[:height, :width]
    center = rng.uniform(0.2, 0.8, 2) * (height, width)
    glare = rng.uniform(20, 70) * np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (0.05 * height * width))
    phase = rng.uniform(0, 6, 2)
    output = np.empty_like(clip)
    for index, frame in enumerate(shown):
        hand = sway * height * np.array([np.sin(0.31 * index + phase[0]), np.sin(0.23 * index + phase[1])])
        framed = Image.new("RGB", (width + 2 * bezel, height + 2 * bezel), (18, 18, 20))
        framed.paste(Image.fromarray(frame), (bezel, bezel))
        coefficients = _perspective(corners + hand, framed.size)
        mask = Image.new("L", framed.size, 255)
        image = framed.transform((width, height), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
        visible = mask.transform((width, height), Image.Transform.PERSPECTIVE, coefficients)
        behind = Image.new("RGB", (width, height), wall)
        behind.paste(image, (0, 0), visible)
        output[index] = (np.asarray(behind) + glare[..., None]).clip(0, 255)
    return output


def _perspective(corners: np.ndarray, size: tuple[int, int]) -> list[float]:
    """Return Pillow's coefficients of the map from the quadrilateral `corners` to an image of this size."""
    targets = np.array([[0, 0], [size[0], 0], [size[0], size[1]], [0, size[1]]], dtype=np.float64)
    rows = []
    for (x, y), (u, v) in zip(corners, targets):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.linalg.solve(np.array(rows), targets.ravel()).tolist()


def _pointer(frame: np.ndarray, x: float, y: float, size: float) -> np.ndarray:
    image = Image.fromarray(frame)
    arrow = [(x, y), (x, y + size), (x + size * 0.28, y + size * 0.72), (x + size * 0.7, y + size * 0.7)]
    ImageDraw.Draw(image).polygon(arrow, fill=(255, 255, 255), outline=(0, 0, 0))
    return np.asarray(image)
