"""Marks of editing that `split` leaves in a clip: cuts, jumps, fades, mixed frames, and pictures that stay in place.

A cut is a change that stands out from the changes around it. Frames of a dissolve are close to the mean of the frames
before and after them, which a moving picture is not. Logos, borders and picture-in-picture have edges that stay in
place while the rest moves. In a wipe, parts of the frame change once, at different times.
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
    version: ClassVar[int] = 4
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
        Column("edits.color_jump", "float", "Largest color change above those around it.", "", 0.0, 1.0),
        Column("edits.color_jump_ratio", "float", "The same as a ratio, log2.", "", 0.0),
        Column("edits.step_line", "float", "Sharpest step across a line along an axis that stays, log2.", "", 0.0),
        Column("edits.long_step_line", "float", "The same for lines of 60 % of the side.", "", 0.0),
        Column("edits.stepping_blocks", "float", "Fraction of the blocks that change in one step.", "", 0.0, 1.0),
        Column("edits.step_times", "float", "Standard deviation of the times of these steps.", "", 0.0, 1.0),
        Column("edits.simultaneous_steps", "float", "Fraction of the blocks that step at the same time.", "", 0.0, 1.0),
        Column("edits.abruptness", "float", "Largest fraction of a block's change in one step, mean.", "", 0.0, 1.0),
        Column("edits.largest_abruptness", "float", "The same for the block where it is largest.", "", 0.0, 1.0),
        Column("edits.still_in_motion", "float", "Fraction of pixels at still edges amid changes.", "", 0.0, 1.0),
        Column("edits.still_in_motion_ratio", "float", "Fraction of still edges amid changes.", "", 0.0, 1.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.02

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
        values |= color_jumps(sampled.frames) | step_lines(chosen) | block_steps(sampled.frames)
        values |= still_edges_in_motion(gray)
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


def color_jumps(frames: UInt8[np.ndarray, "n h w c"], reach: int = 6) -> dict[str, float]:
    """Return the largest change of the color histogram between frames, relative to the changes around it."""
    codes = (frames[:, ::2, ::2] // 32).astype(np.int64) @ np.array([64, 8, 1])
    histograms = np.stack([np.bincount(code.ravel(), minlength=512) / code.size for code in codes])
    changes = np.abs(np.diff(histograms, axis=0)).sum(1) / 2
    padded = np.pad(changes, reach, constant_values=np.nan)
    around = np.delete(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), reach, axis=1)
    median = np.nanmedian(around, axis=1)
    return {
        "color_jump": float(np.max(changes - median)),
        "color_jump_ratio": float(np.max(np.log2((changes + 0.02) / (median + 0.02)))),
    }


def step_lines(frames: UInt8[np.ndarray, "n h w"]) -> dict[str, float]:
    """Return how much the step across a line along an axis exceeds those beside it, in three quarters of the frames.

    Borders of pictures in the picture and of split screens are lines of such steps; edges of filmed objects are blurred
    over several pixels, and move.
    """
    import cv2

    largest = {0.25: -np.inf, 0.6: -np.inf}
    for images in (frames, frames.transpose(0, 2, 1)):
        height, width = images.shape[1:]
        steps = np.abs(np.diff(images.astype(np.float32), axis=2))
        for fraction in largest:
            length = max(5, int(fraction * height)) | 1
            mean = np.stack([cv2.blur(np.ascontiguousarray(step), (1, length)) for step in steps])
            beside = np.max([np.roll(mean, shift, 2) for shift in (-3, -2, 2, 3)], axis=0)
            excess = np.quantile(np.log2((mean + 1) / (beside + 1)), 0.25, axis=0)
            margin, reach = max(3, width // 40), length // 2 if height > length else 0
            inner = excess[reach : height - reach, margin : width - 1 - margin]
            largest[fraction] = max(largest[fraction], float(inner.max(initial=0.0)))
    return {"step_line": largest[0.25], "long_step_line": largest[0.6]}


def block_steps(frames: UInt8[np.ndarray, "n h w c"], grid: int = 8) -> dict[str, float]:
    """Return which part of the frame changes its color in one step, and when; all parts at once in a cut."""
    import cv2

    number = len(frames)
    names = ("stepping_blocks", "step_times", "simultaneous_steps", "abruptness", "largest_abruptness")
    if number < 6:
        return dict.fromkeys(names, 0.0)
    small = np.stack([cv2.resize(frame, (grid, grid), interpolation=cv2.INTER_AREA) for frame in frames])
    colors = small.reshape(number, grid * grid, 3).astype(np.float64)
    total = ((colors - colors.mean(0)) ** 2).sum((0, 2))
    sums, before = np.cumsum(colors, axis=0), np.arange(2, number - 1)[:, None, None]
    means = sums[1 : number - 2] / before, (sums[-1] - sums[1 : number - 2]) / (number - before)
    explained = (before * (number - before) / number * (means[1] - means[0]) ** 2).sum(2)
    best = explained.argmax(0)
    step = np.sqrt(((means[1] - means[0]) ** 2).mean(2))[best, np.arange(grid * grid)]
    stepping = (explained.max(0) > 0.85 * np.maximum(total, 1e-6)) & (step > 2 * _MIN_CHANGE)
    times = best[stepping]
    changes = np.abs(np.diff(colors, axis=0)).mean(2)
    abrupt = changes.max(0) / np.maximum(changes.sum(0), 1e-6) * (changes.max(0) > 2 * _MIN_CHANGE)
    together = np.abs(times - np.median(times)) <= 1 if len(times) else times
    values = (
        stepping.mean(),
        times.std() / number if len(times) > 3 else 0.0,
        together.sum() / len(stepping),
        abrupt.mean(),
        abrupt.max(),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def still_edges_in_motion(frames: UInt8[np.ndarray, "n h w"]) -> dict[str, float]:
    """Return how many edges of the mean frame do not change although most of their surroundings do."""
    import cv2

    mean = frames.mean(0, dtype=np.float32)
    still = frames.std(0, dtype=np.float32) < _MIN_CHANGE / 2
    changing = cv2.blur((~still).astype(np.float32), (15, 15)) > 0.5
    edge = np.hypot(cv2.Sobel(mean, cv2.CV_32F, 1, 0), cv2.Sobel(mean, cv2.CV_32F, 0, 1)) / 4 > _EDGE / 2
    amid = int((still & edge & changing).sum())
    return {
        "still_in_motion": amid / still.size,
        "still_in_motion_ratio": amid / max(1, int((still & edge).sum())),
    }
