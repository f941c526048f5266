"""Early stopping of a run by a signal or a time limit."""

import signal
import time
from types import FrameType
from typing import Any


class TrainingStopped(Exception):
    """The run stops before its last step; the message is the reason."""


class PreemptionHandler:
    """Decides after each step whether the run has to stop.

    As a context manager it turns SIGINT (Ctrl-C) and SIGTERM into a request to stop after the current step; a second
    signal has its usual effect. `max_seconds` counts from construction: the run stops when another step as long as the
    longest one so far (with its validation, samples and checkpoint) would exceed it.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.max_seconds = max_seconds
        self._start = self._last = time.monotonic()
        self._longest = 0.0
        self._received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def stop_reason(self) -> str | None:
        """Return why to stop now (such as "SIGTERM"), or None to continue. Call it once after every step."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        if self._received is not None:
            return self._received
        if self.max_seconds is not None and now - self._start + self._longest > self.max_seconds:
            return f"the time limit of {self.max_seconds:g} s is reached"
        return None

    def reset_timing(self) -> None:
        """Forget the longest step, because the next steps are of another kind."""
        self._longest, self._last = 0.0, time.monotonic()

    def check(self) -> None:
        """Raise TrainingStopped if the run has to stop. For work before the first step, such as encoding."""
        if (reason := self.stop_reason()) is not None:
            raise TrainingStopped(reason)
