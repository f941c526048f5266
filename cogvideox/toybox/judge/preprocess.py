"""Preprocessing of videos for the judge: downsampling and a small blur, so that noise has no effect."""

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

WORKING_SIDE = 64
"""Larger videos are downsampled towards this shorter side, in pixels."""


def preprocess(videos: UInt8[Tensor, "b t height width 3"]) -> Float[Tensor, "b t 3 h w"]:
    """Return values in 0..1, downsampled towards the working size and averaged over 3x3 pixels."""
    planes = videos.flatten(0, 1).permute(0, 3, 1, 2).float().contiguous().div_(255.0)
    factor = max(1, min(planes.shape[-2:]) // WORKING_SIDE)
    if factor > 1:
        planes = avg_pool2d(planes, factor)
    planes = avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    return planes.unflatten(0, tuple(videos.shape[:2]))
