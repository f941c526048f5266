"""Marks of editing that `split` leaves in a clip: cuts, jumps, fades, mixed frames, and pictures that stay in place.

A cut is a change that stands out from the changes around it. Frames of a dissolve are close to the mean of the frames
before and after them, which a moving picture is not. Logos, borders and picture-in-picture have edges that stay in
place while the rest moves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

_SIDE = 48  # pixels of the thumbnails that are compared
_MIN_CHANGE = 4.0  # root mean square of 255
_EDGE = 24.0  # gradient of an edge, of 255


@dataclass(frozen=True)
class Edits:
    """Changes between frames, and edges that stay. See `signals.base.Signal`.

    Attributes:
        longest_side: longest side of the frames, in pixels.
        num_still: frames over which edges must stay.
    """

    name: ClassVar[str] = "edits"
    version: ClassVar[int] = 3
    columns: ClassVar[tuple[Column, ...]] = (
        Column("edits.cuts", "float", "Changes that stand out from those around them, per second.", "1/s", 0.0),
        Column("edits.largest_jump", "float", "Largest change over the median of those around it, as log2.", "", 0.0),
        Column(
            "edits.mixed_share",
            "float",
            "Fraction of frames close to the mean of the frames around them.",
            "",
            0.0,
            1.0,
        ),
        Column("edits.fade", "float", "Smallest contrast of a frame over the median contrast.", "", 0.0, 1.0),
        Column("edits.repeated_share", "float", "Fraction of frames equal to the previous frame.", "", 0.0, 1.0),
        Column("edits.burstiness", "float", "Coefficient of variation of the changes between frames.", "", 0.0),
        Column("edits.still_edges", "float", "Fraction of edge pixels that are edges in all frames.", "", 0.0, 1.0),
        Column("edits.still_border", "float", "The same in the outer quarter of the frame.", "", 0.0, 1.0),
        Column(
            "edits.still_corner", "float", "The same in that corner of the frame where it is largest.", "", 0.0, 1.0
        ),
        Column(
            "edits.still_line",
            "float",
            "Longest line of such pixels along an axis, as a fraction of the side.",
            "",
            0.0,
            1.0,
        ),
        Column(
            "edits.pinned_fraction",
            "float",
            "Fraction of the frame with edges that stay in place while all else moves.",
            "",
            0.0,
            1.0,
        ),
        Column(
            "edits.largest_pinned", "float", "Largest connected part of them, as a fraction of the frame.", "", 0.0, 1.0
        ),
        Column("edits.moving_fraction", "float", "Fraction of the frame that changes at some time.", "", 0.0, 1.0),
        Column(
            "edits.histogram_change",
            "float",
            "Largest distance between the color histograms of three frames.",
            "",
            0.0,
            1.0,
        ),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.005

    longest_side: int = 256
    num_still: int = 8

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return lambda clip: self.measure(clip.frames[0])

    def measure(self, sampled: SampledFrames) -> dict[str, Value]:
        """Return the columns; None for a clip of fewer than 3 frames."""
        import cv2

        if len(sampled.frames) < 3:
            return dict.fromkeys(column.name for column in self.columns)
        gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in sampled.frames])
        small = [cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for frame in sampled.frames]
        thumbnails = np.stack(small).astype(np.float32)
        changes = np.sqrt(np.mean(np.diff(thumbnails, axis=0) ** 2, axis=(1, 2, 3))).astype(np.float64)
        jumps = prominence(changes)
        contrast = gray.std(axis=(1, 2))
        chosen = gray[np.linspace(0, len(gray) - 1, self.num_still).round().astype(int)]
        moving = changes[changes > 0.25]
        values = {
            "cuts": float(np.sum((jumps > 2.0) & (changes > _MIN_CHANGE)) / max(sampled.seconds, 0.5)),
            "largest_jump": float(np.max(np.where(changes > 0.5 * _MIN_CHANGE, jumps, 0.0))),
            "mixed_share": mixed_share(thumbnails),
            "fade": float(contrast.min() / max(float(np.median(contrast)), 1.0)),
            "repeated_share": float(np.mean(changes <= 0.25)),
            "burstiness": float(moving.std() / moving.mean()) if len(moving) > 2 else 0.0,
        }
        values |= still_edges(chosen) | pinned_edges(chosen) | {"histogram_change": histogram_change(sampled.frames)}
        return {f"edits.{name}": value for name, value in values.items()}


def prominence(changes: Float64[np.ndarray, " n"], reach: int = 6) -> Float64[np.ndarray, " n"]:
    """Return the log2 of each change over the median of the changes at most `reach` frames away; at least 0."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(changes, reach, constant_values=np.nan), 2 * reach + 1)
    others = np.delete(around, reach, axis=1)
    with np.errstate(all="ignore"):
        median = np.nanmedian(others, axis=1) if len(changes) > 1 else np.zeros(len(changes))
    return np.maximum(0.0, np.log2((changes + 0.5) / (median + 0.5)))


def mixed_share(thumbnails: Float32[np.ndarray, "n h w c"], distance: int = 3) -> float:
    """Return the fraction of frames close to a mean of the frames `distance` before and after, if these differ."""
    if len(thumbnails) <= 2 * distance:
        return 0.0
    before, middle, after = thumbnails[: -2 * distance], thumbnails[distance:-distance], thumbnails[2 * distance :]
    across = after - before
    length = np.sum(across**2, axis=(1, 2, 3))
    weight = np.sum((middle - before) * across, axis=(1, 2, 3)) / np.maximum(length, 1e-6)
    residual = np.sum((middle - before - weight[:, None, None, None] * across) ** 2, axis=(1, 2, 3))
    size = np.sqrt(length / across[0].size)
    mixed = (size > 2 * _MIN_CHANGE) & (residual < 0.03 * length) & (weight > 0.2) & (weight < 0.8)
    return float(mixed.mean())


def histogram_change(frames: UInt8[np.ndarray, "n h w c"]) -> float:
    """Return the largest distance between the color histograms of the first, the middle and the last frame."""
    codes = (frames[[0, len(frames) // 2, -1]] // 32).astype(np.int64) @ np.array([64, 8, 1])
    first, middle, last = (np.bincount(code.ravel(), minlength=512) / code.size for code in codes)
    return float(max(np.abs(a - b).sum() / 2 for a, b in ((first, middle), (middle, last), (first, last))))


def pinned_edges(frames: UInt8[np.ndarray, "n h w"]) -> dict[str, float]:
    """Return the fraction of the frame with edges that stay in place while their surroundings change in every frame.

    With a still camera there are none, because the surroundings of a still edge do not change.
    """
    import cv2

    height, width = frames.shape[1:]
    smooth = np.stack([cv2.GaussianBlur(frame, (3, 3), 0).astype(np.float32) for frame in frames])
    x = np.stack([cv2.Sobel(frame, cv2.CV_32F, 1, 0) for frame in smooth]) / 4
    y = np.stack([cv2.Sobel(frame, cv2.CV_32F, 0, 1) for frame in smooth]) / 4
    strength = np.hypot(x.mean(0), y.mean(0))
    deviation = np.sqrt(x.var(0) + y.var(0))
    pinned = (strength > _EDGE / 2) & (deviation < 0.4 * strength)
    changes = np.abs(np.diff(smooth, axis=0))
    window = (2 * (height // 16) + 1,) * 2
    unpinned = (~cv2.dilate(pinned.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)).astype(np.float32)
    coverage = cv2.blur(unpinned, window)
    # Mean change around a pixel, without pinned edges, in the quietest third of the pairs of frames.
    mean_changes = np.stack([cv2.blur(change * unpinned, window) for change in changes]) / np.maximum(coverage, 0.05)
    is_moving = np.quantile(mean_changes, 0.33, axis=0) > _MIN_CHANGE / 2
    mask = cv2.dilate((pinned & is_moving).astype(np.uint8), np.ones((5, 5), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    largest = int(stats[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
    return {
        "pinned_fraction": float(mask.mean()),
        "largest_pinned": largest / (height * width),
        "moving_fraction": float((changes.max(0) > 2 * _MIN_CHANGE).mean()),
    }


def still_edges(frames: UInt8[np.ndarray, "n h w"]) -> dict[str, float]:
    """Return fractions of edge pixels that stay in place over these frames; nearly 1 if nothing moves."""
    import cv2

    gradients = []
    for frame in frames:
        smooth = cv2.GaussianBlur(frame, (3, 3), 0).astype(np.float32)
        gradients.append(np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 4)
    stack = np.stack(gradients)
    still = stack.min(0) > _EDGE / 2
    any_edge = stack.max(0) > _EDGE
    height, width = still.shape
    border = np.ones_like(still)
    border[height // 8 : -height // 8, width // 8 : -width // 8] = False
    rows, columns = height // 4, width // 4
    corners = [(slice(None, rows), slice(None, columns)), (slice(None, rows), slice(-columns, None))]
    corners += [(slice(-rows, None), slice(None, columns)), (slice(-rows, None), slice(-columns, None))]

    def still_fraction(part: np.ndarray | tuple[slice, slice]) -> float:
        edges = int(any_edge[part].sum())
        return min(1.0, float(still[part].sum() / edges)) if edges > 8 else 0.0

    image = still.astype(np.uint8)
    longest = 0.0
    for axis, side in ((0, height), (1, width)):
        for fraction in (0.2, 0.4, 0.7):
            kernel = np.ones((round(fraction * side), 1) if axis == 0 else (1, round(fraction * side)), np.uint8)
            closed = cv2.dilate(image, np.ones((1, 3) if axis == 0 else (3, 1), np.uint8))
            if cv2.erode(closed, kernel, borderValue=0).any():
                longest = max(longest, fraction)
    return {
        "still_edges": still_fraction((slice(None), slice(None))),
        "still_border": still_fraction(border),
        "still_corner": max(still_fraction(corner) for corner in corners),
        "still_line": longest,
    }
