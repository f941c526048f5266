"""Display times of the frames of a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    Attributes:
        time: seconds from the first frame of the file.
        seconds: display duration.
        rgb: returns the pixels [h w 3], upright, in 8-bit RGB.
    """

    time: float
    seconds: float
    rgb: Callable[[], UInt8[np.ndarray, "h w 3"]]


@dataclass(frozen=True, eq=False)
class Timeline:
    """Display times of all frames of a video.

    Attributes:
        times: seconds from the first frame, ascending.
        seconds: end of the last frame.
        is_continuous: whether timestamps never decrease, as they do between two joined recordings.
    """

    times: Float64[np.ndarray, " t"]
    seconds: float
    is_continuous: bool = True

    @classmethod
    def of(cls, times: Sequence[float], end: float, is_continuous: bool = True) -> "Timeline":
        """Sort timestamps and subtract the first one."""
        ascending = np.sort(np.asarray(times, dtype=np.float64))
        return cls(ascending - ascending[0], float(max(end, ascending[-1]) - ascending[0]), is_continuous)

    @property
    def num_frames(self) -> int:
        """Number of visible frames, without frames that the next one replaces immediately.

        Some encoders store invisible reference frames as separate packets.
        """
        steps = np.diff(self.times)
        return 1 + int((steps >= np.median(steps) / 10).sum()) if len(steps) else 1

    def gaps(self, start: float, end: float) -> Float64[np.ndarray, " t"]:
        """Return the duration of each frame within an interval, in seconds."""
        return np.diff(np.append(self.times, self.seconds).clip(start, end))
