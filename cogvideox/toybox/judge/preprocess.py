"""Preprocessing of videos for the judge: downsampling and a slight blur, which suppress noise."""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

WORKING_SIDE = 64
"""Larger videos are downsampled by an integer factor to at least this shorter side, in pixels."""

MAX_SIDE, MAX_PIXELS = 256, 2**20
"""Frames of files with a larger shorter side, or more pixels, are reduced when they are read."""


def reduce_frame(frame: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Reduce a large frame by an integer factor, to limit memory."""
    height, width = frame.shape[:2]
    factor = max(min(height, width) // MAX_SIDE, math.isqrt(height * width // MAX_PIXELS))
    return frame if factor <= 1 else np.asarray(Image.fromarray(frame).reduce(factor))


def preprocess(videos: UInt8[Tensor, "b t height width 3"]) -> Float[Tensor, "b t 3 h w"]:
    """Scale values to [0, 1], downsample to the working size and average over 3x3 pixels."""
    planes = videos.flatten(0, 1).permute(0, 3, 1, 2).float().contiguous().div_(255.0)
    factor = max(1, min(planes.shape[-2:]) // WORKING_SIDE)
    if factor > 1:
        planes = avg_pool2d(planes, factor)
    planes = avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    return planes.unflatten(0, tuple(videos.shape[:2]))
