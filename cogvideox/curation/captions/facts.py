"""Measured facts of clips: text, objects, tags, faces, colors, directions of motion.

Facts are hints for models, the only input of the `tags` captioner, and the reference for caption checks. Existing
columns of a curated manifest are reused; missing ones are measured if the required packages and models are installed.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.signals.registry import SIGNALS
from cogvideox.curation.stage import Row, Value
from cogvideox.errors import UserError

MEASURED = ("faces", "objects", "tags", "text")
"""Signals whose columns are facts."""
MOTION_SAMPLING = Sampling(fps=8.0, longest_side=256)
MAX_TEXTS = 8

_STILL = 0.01  # diagonals per second; slower motion counts as still
_MOVING = 0.03  # diagonals per second; a direction is reported above this speed
_COLORS = (
    *("black", "dark gray", "gray", "light gray", "white", "red", "dark red", "orange", "brown", "beige", "yellow"),
    *("green", "dark green", "teal", "light blue", "blue", "dark blue", "purple", "pink"),
)


@dataclass(frozen=True)
class ClipFacts:
    """Measured facts of a clip or a frame. None or empty means not measured or uncertain.

    Attributes:
        texts: recognized lines of text; None if text was not measured.
        counts: mean number of objects by class; None if objects were not measured.
        tags: ImageNet class probabilities.
        faces: mean number of faces; None if not measured.
        colors: names of the dominant colors, most frequent first.
        camera: direction of camera motion: "left", "right", "up", "down" or "still"; None if uncertain.
        motion: dominant direction of object motion, with the same values as `camera`.
    """

    texts: tuple[str, ...] | None = None
    counts: dict[str, float] | None = None
    tags: dict[str, float] = field(default_factory=dict)
    faces: float | None = None
    colors: tuple[str, ...] = ()
    camera: str | None = None
    motion: str | None = None


class Measurer:
    """Measurement of facts. Models are loaded once, and used by one thread at a time."""

    def __init__(self, names: Sequence[str] = MEASURED) -> None:
        """Load the signals whose packages and models are installed.

        Args:
            names: signals to measure, a subset of `MEASURED`.

        Raises:
            UserError: a name is not in `MEASURED`.
        """
        if unknown := sorted({*names} - {*MEASURED}):
            raise UserError(
                f"measure={','.join(unknown)}: these signals give no facts; available: {', '.join(MEASURED)}"
            )
        signals = {name: SIGNALS[name]() for name in names}
        self._columns = {name: [column.name for column in signal.columns] for name, signal in signals.items()}
        self.missing = {
            name: requirements for name, signal in signals.items() if (requirements := signal.missing_requirements())
        }
        self.signals: dict[str, Any] = {name: signal for name, signal in signals.items() if name not in self.missing}
        self._functions: dict[str, Callable[[ClipInput], Mapping[str, Value]]] = {}
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """Names, versions and weight hashes of the measured signals."""
        parts = [f"{name} {signal.version} {signal.weights_hash()[:12]}" for name, signal in self.signals.items()]
        return ", ".join(parts)

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """Frame samplings that the signals require."""
        return (MOTION_SAMPLING, *(sampling for signal in self.signals.values() for sampling in signal.samplings))

    def clip(self, row: Row, frames: Mapping[Sampling, SampledFrames]) -> ClipFacts:
        """Return the facts of a clip, reusing the columns of its row where present."""
        values: dict[str, Value] = {}
        for name, columns in self._columns.items():
            signal = self.signals.get(name)
            if all(column in row for column in columns):
                values |= {column: row[column] for column in columns}
            elif signal is not None:
                values |= self._measure(name, signal, row, tuple(frames[sampling] for sampling in signal.samplings))
        motion = frames[MOTION_SAMPLING]
        camera, moving = directions(motion)
        return _to_facts(values, dominant_colors(motion.frames), camera, moving)

    def frame(self, frame: UInt8[np.ndarray, "h w 3"], moving: tuple[str | None, str | None]) -> ClipFacts:
        """Return the facts of a frame.

        Args:
            frame: pixels of the frame.
            moving: directions of camera and object motion around the time of the frame.
        """
        single = SampledFrames(frame[None], np.zeros(1), 0.0)
        values: dict[str, Value] = {}
        for name, signal in self.signals.items():
            values |= self._measure(name, signal, {}, (single,) * len(signal.samplings))
        return _to_facts(values, dominant_colors(frame[None]), *moving)

    def _measure(self, name: str, signal: Any, row: Row, frames: tuple[SampledFrames, ...]) -> Mapping[str, Value]:
        with self._lock:
            if name not in self._functions:
                self._functions[name] = signal.open()
            return self._functions[name](ClipInput(row, frames, Path(row.get("path", "")), 0.0, frames[0].seconds))


def _to_facts(values: Row, colors: tuple[str, ...], camera: str | None, motion: str | None) -> ClipFacts:
    texts = counts = None
    if values.get("text.num_boxes") is not None:  # the content is missing if there is no text
        texts = tuple(clean_text(line) for line in (values["text.content"] or "").split("\n"))[:MAX_TEXTS]
        # Single characters are mostly misread shapes.
        texts = tuple(text for text in texts if sum(char.isalnum() for char in text) >= 2)
    if "objects.kinds" in values:
        kinds = (values["objects.kinds"] or "").split("\n")
        counts = {kind: count for kind, count in zip(kinds, values["objects.counts"] or []) if kind}
    names = (values.get("tags.names") or "").split("\n")
    tags = {name: value for name, value in zip(names, values.get("tags.probabilities") or []) if name}
    return ClipFacts(texts, counts, tags, values.get("faces.num_faces"), colors, camera, motion)


def clean_text(line: str) -> str:
    """Return a line of recognized text without control characters and in at most 80 characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f<>{}`]", " ", line).split())[:80]


def dominant_colors(frames: UInt8[np.ndarray, "t h w 3"], min_fraction: float = 0.15) -> tuple[str, ...]:
    """Return the names of the colors that cover at least a fraction of the frames, most frequent first; at most 3."""
    pixels = frames[:: max(1, len(frames) // 4), ::8, ::8].reshape(-1, 3)
    fractions = np.bincount(name_colors(pixels), minlength=len(_COLORS)) / max(1, len(pixels))
    order = np.argsort(-fractions, kind="stable")[:3]
    return tuple(_COLORS[index] for index in order if fractions[index] >= min_fraction)


def name_colors(pixels: UInt8[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    """Return for each pixel the index of its color's name in `_COLORS`, by hue, saturation and value."""
    rgb = pixels.astype(np.float64) / 255
    value, low = rgb.max(1), rgb.min(1)
    spread = np.maximum(value - low, 1e-9)
    saturation = (value - low) / np.maximum(value, 1e-9)
    red, green, blue = rgb.T
    from_green, from_blue = 2 + (blue - red) / spread, 4 + (red - green) / spread
    sector = np.where(value == red, (green - blue) / spread % 6, np.where(value == green, from_green, from_blue))
    hue = 60 * sector
    is_gray = (saturation < 0.18) | (value < 0.12)
    warm = (hue >= 15) & (hue < 45)
    names = [
        (is_gray & (value < 0.18), "black"),
        (is_gray & (value < 0.42), "dark gray"),
        (is_gray & (value < 0.65), "gray"),
        (is_gray & (value < 0.88), "light gray"),
        (is_gray, "white"),
        (warm & (saturation < 0.45) & (value > 0.55), "beige"),
        (warm & (value < 0.65), "brown"),
        (warm, "orange"),
        (((hue < 15) | (hue >= 345)) & (value < 0.5), "dark red"),
        ((hue < 15) | (hue >= 345), "red"),
        (hue < 70, "yellow"),
        ((hue < 165) & (value < 0.35), "dark green"),
        (hue < 165, "green"),
        (hue < 195, "teal"),
        ((hue < 255) & (value < 0.45), "dark blue"),
        ((hue < 255) & (saturation < 0.5), "light blue"),
        (hue < 255, "blue"),
        (hue < 290, "purple"),
    ]
    conditions = [condition for condition, _ in names]
    return np.select(conditions, [_COLORS.index(name) for _, name in names], _COLORS.index("pink")).astype(np.int64)


def directions(
    sampled: SampledFrames, start: float | None = None, end: float | None = None
) -> tuple[str | None, str | None]:
    """Return the directions of camera and object motion; None where uncertain.

    Args:
        sampled: frames of the clip.
        start, end: time range in seconds; None is unbounded.
    """
    chosen = np.ones(len(sampled.times), bool)
    if start is not None:
        chosen &= sampled.times >= start - 1e-6
    if end is not None:
        chosen &= sampled.times <= end + 1e-6
    frames, times = sampled.frames[chosen], sampled.times[chosen]
    if len(frames) < 2:
        return None, None
    try:
        from cogvideox.video.flow import global_motion, optical_flow

        flows = optical_flow(frames)
    except ImportError:  # OpenCV is not installed
        return None, None
    diagonal = float(np.hypot(*frames.shape[1:3]))
    camera, moving, amount = [], [], []
    for index, flow in enumerate(flows):
        explained = global_motion(flow, frames[index])
        seconds = max(float(times[index + 1] - times[index]), 1e-3)
        camera.append(-explained.flow.mean((0, 1)) / diagonal / seconds)  # the image moves opposite to the camera
        speeds = np.hypot(explained.residual[..., 0], explained.residual[..., 1])
        # Residuals under one pixel are noise of the camera motion estimate.
        fast = speeds > max(1.0, float(np.quantile(speeds, 0.95)))
        residual = explained.residual[fast].mean(0) if fast.sum() > 8 else np.zeros(2)
        moving.append(residual / diagonal / seconds)
        amount.append(float(fast.mean()))
    return _direction(np.array(camera)), _direction(np.array(moving)) if max(amount) > 0.002 else "still"


def _direction(velocities: np.ndarray) -> str | None:
    """Return the direction of velocities [t 2] in diagonals per second."""
    mean, speed = velocities.mean(0), float(np.hypot(velocities[:, 0], velocities[:, 1]).mean())
    if speed < _STILL:
        return "still"
    length = float(np.hypot(*mean))
    if length < max(_MOVING, 0.7 * speed):
        return None  # oscillating, or too slow for a reliable direction
    x, y = mean / length
    if max(abs(x), abs(y)) < 0.85:
        return None  # diagonal
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"
