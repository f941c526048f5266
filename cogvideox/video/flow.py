"""Optical flow (DIS) and the global motion that explains most of it.

Axes: `t` frames, `h w` pixels; the last axis of a flow is right, down. Needs OpenCV (extra `curate`).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

_GRID = 8  # distance in pixels of the points that the global motion is fitted to
_TEXTURED_SHARE = 0.5  # of these points, for the plain ones to be left out


def optical_flow(frames: UInt8[np.ndarray, "t h w 3"]) -> Float32[np.ndarray, "pairs h w 2"]:
    """Compute the flow from each frame to the next, in pixels.

    Source: dense inverse search (Kroeger et al. 2016), medium preset of OpenCV.
    """
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [search.calc(before, after, np.zeros((*before.shape, 2), np.float32)) for before, after in pairwise(gray)]
    return np.stack(flows) if flows else np.empty((0, *frames.shape[1:3], 2), np.float32)


@dataclass(frozen=True, eq=False)
class GlobalMotion:
    """The similarity transform (shift, rotation, zoom) that explains most of a flow: the motion of the camera.

    Attributes:
        flow: the flow that it predicts, in pixels.
        residual: what it does not explain of the measured flow, in pixels; 0 where nothing can be measured, because
            the image is plain or the point leaves the frame.
        inliers: share of the measured points that it explains, 0 to 1.
    """

    flow: Float64[np.ndarray, "h w 2"]
    residual: Float64[np.ndarray, "h w 2"]
    inliers: float


def global_motion(
    flow: Float32[np.ndarray, "h w 2"], frame: UInt8[np.ndarray, "h w 3"], tolerance: float = 0.75
) -> GlobalMotion:
    """Fit a similarity transform to the flow that starts at a frame, by RANSAC.

    On plain areas flow is interpolated, so only textured points count. If these cover less than half of the frame, the
    plain points count as still: an object that moves over a plain floor is not a moving camera.

    Args:
        tolerance: largest error of an inlier, in pixels.
    """
    import cv2

    height, width = flow.shape[:2]
    textured = texture_mask(frame)
    rows, columns = np.mgrid[_GRID // 2 : height : _GRID, _GRID // 2 : width : _GRID].reshape(2, -1)
    before = np.stack([columns, rows], -1).astype(np.float64)
    measured = textured[rows, columns]
    after = before + np.where(measured[:, None], flow[rows, columns], 0.0)
    if measured.mean() >= _TEXTURED_SHARE:
        before, after = before[measured], after[measured]
    cv2.setRNGSeed(0)
    matrix, inliers = cv2.estimateAffinePartial2D(before, after, method=cv2.RANSAC, ransacReprojThreshold=tolerance)
    if matrix is None:
        matrix, inliers = np.eye(2, 3), np.zeros(1)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    moved = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    inside = (moved >= 0).all(-1) & (moved[..., 0] < width) & (moved[..., 1] < height)
    predicted = moved - np.stack([x, y], -1)
    residual = np.where((textured & inside)[..., None], flow - predicted, 0.0)
    return GlobalMotion(predicted, residual, float(inliers.mean()))


def texture_mask(frame: UInt8[np.ndarray, "h w 3"], min_contrast: float = 4.0) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels with enough contrast around them for a flow to be measured.

    Args:
        min_contrast: standard deviation of the brightness in a window of 9x9 pixels, of 255.
    """
    import cv2

    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(gray, (9, 9))
    return cv2.blur(gray * gray, (9, 9)) - mean * mean >= min_contrast**2
