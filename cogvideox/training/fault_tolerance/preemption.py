"""Early stopping of a run by a signal or a time limit."""

import signal
import threading
import time
from types import FrameType
from typing import Any


class TrainingStopped(Exception):
    """The run stops before its last step. The message is the reason."""


class PreemptionHandler:
    """Decides after each step whether the run has to stop.

    As a context manager it turns SIGINT (Ctrl-C) and SIGTERM into a request to stop after the current step; a second
    signal has its default effect. Only the main thread receives signals; a run in another thread ignores them.
    `max_seconds` counts from construction: the run stops when one more step as long as the longest so far (with its
    validation, samples and checkpoint) would exceed it.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.max_seconds = max_seconds
        self._start = self._last = time.monotonic()
        self._longest = 0.0
        self._signal_name: str | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        if threading.current_thread() is not threading.main_thread():
            return self
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, signum: int, _: FrameType | None) -> None:
        self._signal_name = signal.Signals(signum).name
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)
        self._previous_handlers.clear()

    def stop_reason(self) -> str | None:
        """Return the reason to stop now (such as "SIGTERM"), or None to continue. Call it once after every step."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        if self._signal_name is not None:
            return self._signal_name
        if self.max_seconds is not None and now - self._start + self._longest > self.max_seconds:
            return f"the time limit of {self.max_seconds:g} s is reached"
        return None

    def reset_timing(self) -> None:
        """Reset the longest step duration, before steps of a different kind."""
        self._longest, self._last = 0.0, time.monotonic()

    def check(self, *, time_limit: bool = True) -> None:
        """Raise TrainingStopped if the run has to stop. Called before the first step, for example while encoding.

        Args:
            time_limit: whether the time limit counts. If it did before work is saved, a run with a short limit would
                never progress.
        """
        reason = self.stop_reason() if time_limit else self._signal_name
        if reason is not None:
            raise TrainingStopped(reason)
