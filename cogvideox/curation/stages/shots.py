"""Shot boundaries: cuts and dissolves.

Cuts come from PySceneDetect's adaptive detector, and from frames whose difference from the previous frame is much
larger than that of their neighbors, which finds cuts between similar shots. A boundary is moved to the largest change
nearby, so that no frame of the next shot remains in a clip. It is dropped if both sides look the same, as around a
flash.

A dissolve is a stretch in which every frame is close to a weighted mean of the first and the last frame, with a weight
that grows steadily, and in which detail is lost. Motion has neither property: a moving object is at a third position in
between, and keeps its detail.

Axes: `n` frames, `d` values of a thumbnail.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Float64, UInt8

DETECTOR_SIDE = 256
"""Longest side in pixels of the frames that PySceneDetect compares."""
_ROWS, _COLUMNS = 16, 24
_DETAIL_SIDE = 96  # longest side in pixels at which the detail of frames is measured
_MAX_DETAIL = 0.9  # detail in the middle of a dissolve, relative to its ends
_CHUNK, _OVERLAP = 2000, 200  # frames examined at once for dissolves

Thumbnails = Float32[np.ndarray, "n d"]


@dataclass(frozen=True)
class Boundary:
    """A transition between two shots.

    Attributes:
        last: last frame of the shot before.
        first: first frame of the shot after. Frames in between belong to neither.
        kind: "cut" or "dissolve" (also fades from and to black).
    """

    last: int
    first: int
    kind: str


class ShotFinder:
    """Shot detection over frames that are added in order.

    Args:
        adaptive_threshold: ratio of the change at a cut to the change around it.
        min_content: smallest change of hue, saturation and brightness at a cut, on the 0-255 scale.
        dissolve_seconds: longest dissolve.
    """

    def __init__(self, adaptive_threshold: float, min_content: float, dissolve_seconds: float, fps: float) -> None:
        import scenedetect

        self._timecode = scenedetect.FrameTimecode
        self._detector = scenedetect.AdaptiveDetector(
            adaptive_threshold=adaptive_threshold, min_scene_len=1, min_content_val=min_content
        )
        self._fps = min(max(fps, 1.0), 240.0)
        self._ratio = adaptive_threshold
        self._longest = max(4, round(dissolve_seconds * self._fps))
        self._thumbnails: list[UInt8[np.ndarray, " d"]] = []
        self._changes: list[float] = []
        self._detail: list[float] = []
        self._cuts: set[int] = set()

    def add(self, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """Add the next frame, whose longest side is at most `DETECTOR_SIDE`."""
        number = len(self._thumbnails)
        codes = self._detector.process_frame(self._timecode(number, self._fps), np.ascontiguousarray(rgb[..., ::-1]))
        self._cuts.update(code.frame_num for code in codes)
        thumbnail = shrink(rgb)
        if number:
            difference = thumbnail.astype(np.float32) - self._thumbnails[-1]
            self._changes.append(float(np.sqrt(np.mean(difference**2))))
        self._thumbnails.append(thumbnail)
        self._detail.append(detail_energy(rgb))

    def boundaries(self) -> list[Boundary]:
        """Return the boundaries in order."""
        changes = np.array([0.0, *self._changes])
        cuts = {self._move(cut, changes) for cut in self._cuts | set(_sharp_changes(changes, self._ratio))}
        cuts = sorted(cut for cut in cuts if self._is_cut(cut, changes))
        dissolves = list(self._dissolves(cuts))
        kept = [cut for cut in cuts if not any(first < cut <= last for first, last in dissolves)]
        boundaries = [self._cut(cut, changes) for cut in kept]
        boundaries += [Boundary(first, last, "dissolve") for first, last in dissolves]
        return _disjoint(sorted(boundaries, key=lambda boundary: (boundary.last, boundary.first)))

    def _move(self, cut: int, changes: Float64[np.ndarray, " n"]) -> int:
        """Return the frame with the largest change near a cut."""
        near = range(max(1, cut - 2), min(len(changes), cut + 3))
        return max(near, key=lambda number: changes[number])

    def _is_cut(self, cut: int, changes: Float64[np.ndarray, " n"]) -> bool:
        """Return whether the frames before and after a change differ, unlike around a flash."""
        before, after = max(0, cut - 3), min(len(changes) - 1, cut + 2)
        distance = _distance(self._thumbnails[before], self._thumbnails[after])
        return bool(distance > 0.5 * changes[cut] and changes[cut] > 2.0)

    def _cut(self, cut: int, changes: Float64[np.ndarray, " n"]) -> Boundary:
        """Return the boundary at a cut, without a frame in which both shots are mixed (interlaced or blended)."""
        neighbors = [number for number in (cut - 1, cut + 1) if 0 < number < len(changes)]
        neighbor = max(neighbors, key=lambda number: changes[number], default=cut)
        surrounding = [changes[number] for number in (cut - 3, cut - 2, cut + 2, cut + 3) if 0 < number < len(changes)]
        mixed = neighbor != cut and changes[neighbor] > max(0.25 * changes[cut], 4 * max(surrounding, default=0.0))
        if not mixed:
            return Boundary(cut - 1, cut, "cut")
        return Boundary(min(cut, neighbor) - 1, max(cut, neighbor), "cut")

    def _dissolves(self, cuts: list[int]) -> Iterator[tuple[int, int]]:
        """Yield (last frame before, first frame after) of each dissolve between two cuts."""
        for start, end in pairwise([0, *cuts, len(self._thumbnails)]):
            dissolves: list[tuple[int, int]] = []
            for first in range(start, max(start + 1, end - _OVERLAP), _CHUNK - _OVERLAP):
                part = np.array(self._thumbnails[first : min(end, first + _CHUNK)], dtype=np.float32)
                detail = np.array(self._detail[first : first + len(part)])
                spans = find_dissolves(part, detail, self._fps, self._longest)
                dissolves += [(first + low, first + high) for low, high in spans]
            yield from _merge(dissolves)


def find_dissolves(
    thumbnails: Thumbnails, detail: Float64[np.ndarray, " n"], fps: float, longest: int
) -> list[tuple[int, int]]:
    """Find dissolves in the thumbnails of consecutive frames without cuts.

    Returns:
        The last frame before and the first frame after each.
    """
    shortest = max(4, round(0.2 * fps))
    candidates = []
    for length in sorted({round(length) for length in np.geomspace(shortest, longest, 10)}):
        if len(thumbnails) <= length:
            break
        difference = thumbnails[length:] - thumbnails[:-length]
        energy = np.einsum("nd,nd->n", difference, difference)
        rms = np.sqrt(energy / thumbnails.shape[1])
        for start in np.flatnonzero(rms > 8.0).tolist():
            error = _dissolve_error(thumbnails, start, length, difference[start], float(energy[start]))
            if error < 1 and _detail_ratio(detail[start : start + length + 1]) < _MAX_DETAIL:
                candidates.append((error, start, start + length))
    best: list[tuple[int, int]] = []
    for _, low, high in sorted(candidates):  # keep the best of overlapping dissolves
        if not any(low < other[1] and other[0] < high for other in best):
            best.append((low, high))
    return sorted(best)


def _dissolve_error(
    thumbnails: Thumbnails, start: int, length: int, difference: Float32[np.ndarray, " d"], energy: float
) -> float:
    """Return the deviation of a stretch from a dissolve; below 1 the stretch counts as a dissolve."""
    first, last = thumbnails[start], thumbnails[start + length]
    inner = thumbnails[start + 1 : start + length] - first
    weights = inner @ difference / energy
    expected = np.arange(1, length) / length
    linear = float(np.abs(weights - expected).max(initial=0.0)) / 0.2
    if linear > 1:
        return linear
    residual = inner - weights[:, None] * difference
    residual_fraction = float(np.einsum("nd,nd->n", residual, residual).max(initial=0.0)) / energy
    dip = _dip_error(inner + first, first, last, expected) / 0.12
    mixed = min(residual_fraction / 0.15, max(residual_fraction / 0.5, dip))
    if mixed > 1:
        return mixed
    # Before and after a dissolve the weights are constant. If they keep growing, the camera moves slowly, or this is
    # only a part of a dissolve.
    margin = max(2, length // 3)
    before = thumbnails[max(0, start - length) : start] - first
    after = thumbnails[start + length + 1 : start + 2 * length + 1] - last
    steady, inside = 0.0, []
    for side, near, picture in ((before, before[-margin:], first), (after, after[:margin], last)):
        if len(near) < margin:  # next to a cut or the end of the file, only fades count
            if np.std(picture) > 6:
                return math.inf
        else:
            steady = max(steady, float(np.abs(near @ difference / energy).max()) / 0.28)
            inside.append(float(np.linalg.norm(side[0 if side is before else -1])))
    if steady > 1 or not inside or _similarity(first, last) > 0.73:
        return math.inf
    # The two pictures differ more than pictures of one shot at the same distance in time.
    ratios = [math.sqrt(energy) / max(other, 1e-6) for other in inside]
    clear = dip < 1 and energy > 40.0**2 * len(first)
    if min(ratios) * math.sqrt(max(ratios)) < (1.0 if clear else 1.85):
        return math.inf
    # No picture of the first shot reappears in the second, as it would if something moved back and forth.
    reach = max(length, 24)
    sides = thumbnails[max(0, start - reach) : start + 1], thumbnails[start + length : start + length + reach + 1]
    early, late = (side[:: max(1, len(side) // 32)] for side in sides)
    nearest = np.linalg.norm(early[:, None] - late[None], axis=2).min()
    if nearest < 0.6 * math.sqrt(energy):
        return math.inf
    return max(linear, mixed, steady)


def _dip_error(
    inner: Thumbnails, first: Float32[np.ndarray, " d"], last: Float32[np.ndarray, " d"], weights: np.ndarray
) -> float:
    """Return the deviation of the contrast from that of mixed pictures, which is lowest in the middle.

    If both shots move, mixed frames are not weighted means of the first and the last, but still have less contrast.
    """
    first, last = first - first.mean(), last - last.mean()
    before, after, product = float(first @ first), float(last @ last), float(first @ last)
    expected = (1 - weights) ** 2 * before + weights**2 * after + 2 * weights * (1 - weights) * product
    if expected.min(initial=math.inf) > 0.75 * min(before, after):
        return math.inf
    centered = inner - inner.mean(axis=1, keepdims=True)
    contrast = np.einsum("nd,nd->n", centered, centered)
    return float(np.abs(contrast - expected).max()) / max(before, after, 1e-6)


def _detail_ratio(detail: Float64[np.ndarray, " n"]) -> float:
    """Return the detail in the middle of a stretch relative to a straight line between its ends.

    Edges of two pictures that are mixed in equal parts have a quarter of the energy each, so the ratio is about 0.5 in
    a dissolve or a fade, and about 1 if the camera moves.
    """
    middle = slice(len(detail) // 3, len(detail) - len(detail) // 3)
    expected = np.linspace(detail[0], detail[-1], len(detail))
    return float(np.median(detail[middle] / np.maximum(expected[middle], 1e-6)))


def _similarity(first: Float32[np.ndarray, " d"], last: Float32[np.ndarray, " d"]) -> float:
    """Return the correlation of two pictures; 0 if one of them is flat, such as black."""
    first, last = first - first.mean(), last - last.mean()
    norms = float(np.linalg.norm(first)), float(np.linalg.norm(last))
    return 0.0 if min(norms) < 3.0 * math.sqrt(len(first)) else float(first @ last) / (norms[0] * norms[1])


def shrink(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, " d"]:
    """Return a thumbnail of 16x24 pixels as a vector."""
    import cv2

    return cv2.resize(rgb, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA).ravel()


def detail_energy(rgb: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the mean squared difference of neighboring pixels, at a size at which noise hardly counts."""
    import cv2

    scale = min(1.0, _DETAIL_SIDE / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    gray = cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(sum((np.diff(gray, axis=axis) ** 2).sum() for axis in (0, 1)) / gray.size)


def _sharp_changes(changes: Float64[np.ndarray, " n"], ratio: float) -> Iterator[int]:
    """Yield frames whose change is several times as large as all changes nearby."""
    for number in np.flatnonzero(changes > 4.0).tolist():
        near = [changes[other] for other in range(max(1, number - 4), min(len(changes), number + 5)) if other != number]
        if near and changes[number] > ratio * sorted(near)[-2:][0] and changes[number] > 1.5 * max(near):
            yield number


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(np.mean((first.astype(np.float32) - second) ** 2)))


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low < merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def _disjoint(boundaries: list[Boundary]) -> list[Boundary]:
    """Join boundaries that overlap, such as two dissolves in a row."""
    result: list[Boundary] = []
    for boundary in boundaries:
        if result and boundary.last < result[-1].first:
            before = result[-1]
            result[-1] = Boundary(before.last, max(before.first, boundary.first), "dissolve")
        else:
            result.append(boundary)
    return result
