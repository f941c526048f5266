"""The protocol of signals: the frames that a signal needs, its input and its output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Float64, UInt8

from cogvideox.curation.stage import Column, Row, Value
from cogvideox.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """The frames of a clip that a signal needs.

    Attributes:
        fps: at most this many frames per second of video, nearest to multiples of 1 / fps; None for all frames.
        num_frames: instead of `fps`, this many frames evenly spaced over the clip (midpoints of equal intervals).
        longest_side: frames are downscaled so that the longer side has at most this many pixels; None keeps their size.
            Frames are never upscaled.
    """

    fps: float | None = None
    num_frames: int | None = None
    longest_side: int | None = 256

    def __post_init__(self) -> None:
        if self.fps is not None and self.num_frames is not None:
            raise UserError(
                f"fps={self.fps:g} and num_frames={self.num_frames} both set the sampled frames: remove one of them"
            )

    def times(self, start: float, end: float) -> list[float] | None:
        """Return the times in seconds of the frames between `start` and `end`; None for all frames."""
        if self.num_frames is not None:
            return [start + (end - start) * (index + 0.5) / self.num_frames for index in range(self.num_frames)]
        if self.fps is not None:
            return [start + index / self.fps for index in range(max(1, round((end - start) * self.fps)))]
        return None


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """RGB frames of a clip. Each frame occurs once, so there may be fewer frames than the sampling requests.

    Attributes:
        times: seconds from the start of the clip, increasing.
        seconds: duration of the clip.
    """

    frames: UInt8[np.ndarray, "t h w 3"] = field(repr=False)
    times: Float64[np.ndarray, " t"] = field(repr=False)
    seconds: float

    @property
    def fps(self) -> float:
        """Average frame rate of these frames, in frames per second; 0 for a single frame."""
        return 0.0 if len(self.times) < 2 else float((len(self.times) - 1) / (self.times[-1] - self.times[0]))


@dataclass(frozen=True, eq=False)
class ClipInput:
    """The input of a signal.

    Attributes:
        row: columns of the clip that earlier stages wrote: `codec`, `fps`, `width`, `height`, `bit_rate`, `has_audio`
            and the other columns of probe and split.
        frames: the frames of each of the signal's `samplings`, in the same order. Each has at least one frame.
        path, start, end: file and part in seconds, for signals that read other data, such as audio.
    """

    row: Row
    frames: tuple[SampledFrames, ...]
    path: Path
    start: float
    end: float


class Signal(Protocol):
    """A measurement of clips. Members that stages also have are described in `curation.stage.Stage`.

    Attributes:
        samplings: the frames it needs. Signals with equal samplings share them.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    columns: ClassVar[tuple[Column, ...]]
    memory: ClassVar[int]
    cost: ClassVar[float]

    @property
    def samplings(self) -> tuple[Sampling, ...]: ...

    def missing_requirements(self) -> list[str]:
        """Return a message for each missing package or model file, with how to get it."""
        ...

    def weights_hash(self) -> str:
        """Return a hash of the model files that the values depend on; an empty string without models."""
        ...

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        """Load the models, once per worker, and return a function that measures one clip.

        The function returns a value for each of `columns`: None if it does not apply, such as the motion of an image.
        It raises `UserError` if the clip itself is at fault. Other exceptions are retried.
        """
        ...
