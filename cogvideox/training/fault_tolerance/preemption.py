"""When a training has to stop before its last step: a signal, or the end of the time it was given."""

import signal
import time
from types import FrameType
from typing import Any


class Stopped(Exception):
    """Work that keeps no state of its own was left early; the message says why."""


class Interruption:
    """Asks, between two steps, whether to save and leave.

    As a context manager it turns SIGINT (Ctrl-C) and SIGTERM into a request to stop after the running step; a second
    one is not held back. `max_seconds` counts from construction: the run stops when another stretch as long as the
    longest one so far (a step with its validation, samples or save) would not fit any more.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.max_seconds = max_seconds
        self._start = self._last = time.monotonic()
        self._longest = 0.0
        self._received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
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

    def reason(self) -> str | None:
        """Why to stop now ("SIGTERM", "540 s are over"), or None; call it once after every step."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        if self._received is not None:
            return self._received
        if self.max_seconds is not None and now - self._start + self._longest > self.max_seconds:
            return f"{self.max_seconds:g} s are over"
        return None

    def restart(self) -> None:
        """Work of another kind begins: how long stretches took before says nothing about it."""
        self._longest, self._last = 0.0, time.monotonic()

    def check(self) -> None:
        """Raises Stopped when there is a reason to stop: for the work before the first step."""
        if (reason := self.reason()) is not None:
            raise Stopped(reason)
