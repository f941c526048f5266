"""When the frames of a video are shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    Attributes:
        time: seconds from the first frame of the file.
        seconds: how long it is shown.
        rgb: returns its pixels [h w 3], upright, in 8-bit RGB.
    """

    time: float
    seconds: float
    rgb: Callable[[], UInt8[np.ndarray, "h w 3"]]


@dataclass(frozen=True, eq=False)
class Timeline:
    """The times at which the frames of a video are shown.

    Attributes:
        times: seconds from the first frame, ascending.
        seconds: when the last frame ends.
        is_continuous: whether the timestamps never go back to earlier ones, as where two recordings were joined.
    """

    times: Float64[np.ndarray, " t"]
    seconds: float
    is_continuous: bool = True

    @classmethod
    def of(cls, times: Sequence[float], end: float, is_continuous: bool = True) -> "Timeline":
        """Sort timestamps and make them start at 0."""
        ascending = np.sort(np.asarray(times, dtype=np.float64))
        return cls(ascending - ascending[0], float(max(end, ascending[-1]) - ascending[0]), is_continuous)

    @property
    def num_frames(self) -> int:
        """The number of frames that are seen, because the next one does not follow at once.

        Some encoders store reference frames that are not shown as packets of their own.
        """
        steps = np.diff(self.times)
        return 1 + int((steps >= np.median(steps) / 10).sum()) if len(steps) else 1

    def gaps(self, start: float, end: float) -> Float64[np.ndarray, " t"]:
        """Return how long each frame is shown between two times."""
        return np.diff(np.append(self.times, self.seconds).clip(start, end))
