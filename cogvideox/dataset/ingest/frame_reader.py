"""Read the frames of clip windows, and draw contact sheets."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from cogvideox.dataset.ingest.clip_windows import ClipWindow
from cogvideox.errors import UserError
from cogvideox.geometry import FRAME_RATIO, round_down_frame_count
from cogvideox.untrusted.text_encoding import printable
from cogvideox.video.sheet import side_by_side
from cogvideox.video.transform import resize_crop, resize_pad

NUM_WINDOWS, FRAMES_PER_WINDOW = 16, 4  # on a contact sheet
CELL_SIDE = 160  # approximate longer side of a frame on the sheet, in pixels


def read_window(window: ClipWindow) -> UInt8[np.ndarray, "t h w 3"]:
    """Read the frames of a window, resized to cover its size and center-cropped.

    If the file has slightly fewer frames than its header says, the result is trimmed to 4k+1 frames.

    Raises:
        UserError: the file cannot be read, or has far fewer frames than its header says.
    """
    from cogvideox.video import io  # imports PyAV, which training on encoded clips does not need

    clip = window.clip

    def fit(frame: UInt8[np.ndarray, "own_h own_w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        return resize_crop(torch.from_numpy(frame.copy())[None], window.height, window.width)[0].numpy()

    if clip.is_image:
        return fit(io.read_image(clip.source))[None]
    try:
        frames, _ = io.read(clip.source, clip.start, clip.end, window.fps, window.num_frames, fit)
    except io.NoFrameError:
        raise UserError(f"it is truncated: it has no frame from {clip.start or 0:g} s on") from None
    if len(frames) < max(window.num_frames - FRAME_RATIO, min(window.num_frames, FRAME_RATIO + 1)):
        raise UserError(f"it is truncated: it has {len(frames)} of {window.num_frames} frames")
    return frames[: round_down_frame_count(len(frames))]


def contact_sheet(windows: Sequence[ClipWindow]) -> tuple[UInt8[np.ndarray, "h w 3"], list[ClipWindow]]:
    """Draw four frames each of up to 16 windows, evenly spaced over the list, two windows per row.

    Frames keep their aspect ratio, on a black background. Unreadable windows are omitted.

    Returns:
        The sheet, and its windows in reading order.

    Raises:
        UserError: no window can be read.
    """
    indices = np.linspace(0, len(windows) - 1, min(NUM_WINDOWS, len(windows))).round().astype(int)
    cells, shown = [], []
    height, width = (max((getattr(windows[i], side) for i in indices), default=1) for side in ("height", "width"))
    scale = CELL_SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    for index in indices:
        try:
            frames = read_window(windows[index])
        except UserError:
            continue
        row = frames[np.linspace(0, len(frames) - 1, FRAMES_PER_WINDOW).round().astype(int)]
        if len(frames) == 1:
            row[1:] = 0
        cells.append(resize_pad(torch.from_numpy(row), *size).numpy())
        shown.append(windows[index])
    if not cells:
        raise UserError("cannot make a preview sheet: no clip can be read")
    labels = [printable(f"{window.clip.source.name}: {window.clip.caption}") for window in shown]
    return side_by_side(np.stack(cells), columns=2, labels=labels), shown
