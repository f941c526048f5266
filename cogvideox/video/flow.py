"""Optical flow (DIS), and camera motion estimated from it.

Axes: `t` frames, `h w` pixels; the last axis of a flow is (right, down). Needs OpenCV (extra `curate`).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

_GRID = 8  # spacing in pixels of the points to which the global motion is fitted
_MIN_TEXTURED_FRACTION = 0.5  # of these points; with fewer textured points, the plain points are used, too


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
    """Similarity transform (shift, rotation, zoom) fitted to a flow, as an estimate of the camera motion.

    Attributes:
        flow: flow of the transform, in pixels.
        residual: measured flow minus `flow`, in pixels; 0 in plain areas and for points that leave the frame.
        inliers: fraction of the points that agree with the transform, 0 to 1.
    """

    flow: Float64[np.ndarray, "h w 2"]
    residual: Float64[np.ndarray, "h w 2"]
    inliers: float


def global_motion(
    flow: Float32[np.ndarray, "h w 2"], frame: UInt8[np.ndarray, "h w 3"], tolerance: float = 0.75
) -> GlobalMotion:
    """Fit a similarity transform to the flow that starts at a frame, by RANSAC.

    Flow is interpolated in plain areas, so only textured points are used. If they cover less than half of the frame,
    plain points are included with zero flow, so that an object that moves over a plain floor is not camera motion.

    Args:
        tolerance: maximum error of an inlier, in pixels.
    """
    import cv2

    height, width = flow.shape[:2]
    textured = texture_mask(frame)
    rows, columns = np.mgrid[_GRID // 2 : height : _GRID, _GRID // 2 : width : _GRID].reshape(2, -1)
    before = np.stack([columns, rows], -1).astype(np.float64)
    measured = textured[rows, columns]
    after = before + np.where(measured[:, None], flow[rows, columns], 0.0)
    if measured.mean() >= _MIN_TEXTURED_FRACTION:
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
    """Return a mask of the pixels with enough local contrast to measure flow.

    Args:
        min_contrast: minimum standard deviation of the brightness (0 to 255) in a window of 9x9 pixels.
    """
    import cv2

    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(gray, (9, 9))
    return cv2.blur(gray * gray, (9, 9)) - mean * mean >= min_contrast**2
