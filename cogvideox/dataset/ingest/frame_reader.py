"""The frames of a view, read from its file, and a picture of some of them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from cogvideox.dataset.ingest.clip_windows import View
from cogvideox.errors import UserError
from cogvideox.geometry import FRAME_RATIO, round_down_frames
from cogvideox.video import io
from cogvideox.video.sheet import side_by_side
from cogvideox.video.transform import resize_crop, resize_pad

NUM_SHOWN, PER_CLIP = 16, 4
CELL = 160  # pixels of the longer side of a frame on the sheet, about


def read(view: View) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames that the VAE is to see, resized to cover the view's size and cut to their middle.

    A file may hold a little less than its header says; then it is fewer frames, still 4k+1.

    Raises:
        UserError: the file cannot be read, or holds much less than its header says.
    """
    clip = view.clip

    def fitted(picture: UInt8[np.ndarray, "own_h own_w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        return resize_crop(torch.from_numpy(picture.copy())[None], view.height, view.width)[0].numpy()

    if clip.is_image:
        return fitted(io.read_picture(clip.source))[None]
    try:
        frames, _ = io.read(clip.source, clip.start, clip.end, view.fps, view.num_frames, fitted)
    except io.NoFrame:
        raise UserError(f"it is truncated: from {clip.start or 0:g} s on it holds no frame") from None
    if len(frames) < view.num_frames - FRAME_RATIO:
        raise UserError(f"it is truncated: of {view.num_frames} frames it holds {len(frames)}")
    return frames[: round_down_frames(len(frames))]


def contact_sheet(views: Sequence[View]) -> tuple[UInt8[np.ndarray, "h w 3"], list[View]]:
    """First, last and two frames between of up to 16 views from all over the list, two views in a row.

    Frames keep their shape, with black around them where others have another. Also returns which views these are, in
    reading order; those that cannot be read are left out.

    Raises:
        UserError: none of them can be read.
    """
    picked = np.linspace(0, len(views) - 1, min(NUM_SHOWN, len(views))).round().astype(int)
    cells, shown = [], []
    tallest, widest = (max((getattr(views[i], side) for i in picked), default=1) for side in ("height", "width"))
    scale = CELL / max(tallest, widest)
    size = max(1, round(tallest * scale)), max(1, round(widest * scale))
    for index in picked:
        try:
            frames = read(views[index])
        except UserError:
            continue
        few = frames[np.linspace(0, len(frames) - 1, PER_CLIP).round().astype(int)]
        if len(frames) == 1:
            few[1:] = 0
        cells.append(resize_pad(torch.from_numpy(few), *size).numpy())
        shown.append(views[index])
    if not cells:
        raise UserError("there is nothing to show: no clip can be read")
    labels = [f"{view.clip.source.name}: {view.clip.caption}" for view in shown]
    return side_by_side(np.stack(cells), columns=2, labels=labels), shown
