"""Many videos on one picture, to be looked at side by side.

Axes: `n` videos, `t` frames, `k` those that are shown, `h w` height and width in pixels.
"""

import numpy as np
from einops import rearrange
from jaxtyping import UInt8


def ends_and_middle(num_frames: int) -> list[int]:
    """The first, the middle and the last frame, each once: 9 -> [0, 4, 8], 1 -> [0]."""
    return sorted({0, num_frames // 2, num_frames - 1})


def side_by_side(shown: UInt8[np.ndarray, "n k h w 3"], columns: int) -> UInt8[np.ndarray, "sheet_h sheet_w 3"]:
    """The shown frames of each video in a row, at most `columns` videos beside each other; what is left is black."""
    columns = min(columns, len(shown))
    filled = np.concatenate([shown, np.zeros_like(shown[: -len(shown) % columns])])
    return rearrange(filled, "(row column) k h w c -> (row h) (column k w) c", column=columns)
