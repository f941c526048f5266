"""Contact sheets of one video, and labeled rows of frames of several videos side by side.

Axes: `n` videos, `k` selected frames of each, `t` frames, `h w` height and width in pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

MAX_FRAMES = 64
"""Maximum number of frames on a contact sheet; longer videos are sampled at even spacing."""
GAP = 4  # pixels between labeled videos, and between the frames of a contact sheet
MAX_LINES = 3
"""Maximum number of lines of a label; longer labels are truncated."""

Sheet = UInt8[np.ndarray, "sheet_h sheet_w 3"]


def contact_sheet(frames: UInt8[np.ndarray, "t h w 3"]) -> Sheet:
    """Lay out the frames of a video in reading order on white; a single frame is returned unchanged.

    Frames are resized so that the longer side is between 192 and 320 pixels.
    """
    if len(frames) == 1:
        return frames[0]
    if len(frames) > MAX_FRAMES:
        frames = frames[np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int)]
    height, width = frames.shape[1:3]
    longer_side = max(height, width)
    scale = max(1, 192 // longer_side) if longer_side <= 320 else 320 / longer_side
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    # One row if it stays legible, otherwise an aspect ratio of about 3:2.
    columns = len(frames) if len(frames) <= 9 else math.ceil(math.sqrt(len(frames) * 1.5 * height / width))
    rows = math.ceil(len(frames) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), "white")
    for i, frame in enumerate(frames):
        position = GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)
        sheet.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), position)
    return np.array(sheet)


def ends_and_middle(num_frames: int) -> list[int]:
    """Return the indices of the first, middle and last frame, without repeats: 9 -> [0, 4, 8], 1 -> [0]."""
    return sorted({0, num_frames // 2, num_frames - 1})


def side_by_side(
    shown: UInt8[np.ndarray, "n k h w 3"],
    columns: int,
    labels: Sequence[str] | None = None,
    font_size: int | None = None,
) -> Sheet:
    """Lay out the frames of each video in a row, with at most `columns` videos side by side, on black.

    labels: label above each video, such as its prompt.
    font_size: font size of the labels in pixels; defaults to one sixth of the frame height, clamped to 11..32.
    """
    columns = min(columns, len(shown))
    tiles = rearrange(shown, "n k h w c -> n h (k w) c")
    if labels is not None:
        font_size = font_size or min(32, max(11, shown.shape[2] // 6))
        tiles = np.concatenate([_labels(labels, tiles.shape[2], font_size), tiles], 1)
        tiles = np.pad(tiles, ((0, 0), (0, GAP), (0, GAP), (0, 0)))
    filled = np.concatenate([tiles, np.zeros_like(tiles[: -len(tiles) % columns])])
    return rearrange(filled, "(row column) h w c -> (row h) (column w) c", column=columns)


def _labels(labels: Sequence[str], width: int, font_size: int) -> UInt8[np.ndarray, "n label_h w 3"]:
    """Render labels in white on black, with equal height."""
    font = ImageFont.load_default(font_size)
    wrapped = [_wrap(label, font, width - 2 * GAP) for label in labels]
    height = round(1.25 * font_size) * max(map(len, wrapped)) + GAP
    images = []
    for lines in wrapped:
        image = Image.new("RGB", (width, height))
        bottom = (GAP, height - GAP)  # close to the frames below
        draw = ImageDraw.Draw(image)
        draw.multiline_text(bottom, "\n".join(lines), font=font, spacing=font_size // 4, anchor="ld")
        images.append(np.array(image))
    return np.stack(images)


def _wrap(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Wrap a label into at most `MAX_LINES` lines of a width; an ellipsis replaces the rest."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) < MAX_LINES:
            lines.append(word)
        else:
            while " " in lines[-1] and font.getlength(f"{lines[-1]} ...") > width:
                lines[-1] = lines[-1].rpartition(" ")[0]
            lines[-1] += " ..."
            break
    return lines
