"""Progress lines of long work: a line every few seconds, with the remaining time, also in log files."""

import sys
import time
from collections.abc import Callable

from cogvideox.formatting import format_duration

LOG_INTERVAL, TERMINAL_INTERVAL = 10.0, 2.0
"""Seconds between lines in a log file and on a terminal."""


class ProgressLines:
    """Prints a line with the progress and the remaining time of the current stage every `interval` seconds.

    A stage that has printed a line also prints one when it is complete.
    """

    def __init__(self, print_line: Callable[[str], None], interval: float | None = None) -> None:
        """Args:
        interval: seconds; None means 2 on a terminal and 10 otherwise.
        """
        if interval is None:
            interval = TERMINAL_INTERVAL if sys.stderr.isatty() else LOG_INTERVAL
        self._print, self._interval = print_line, interval
        self._stage, self._start, self._first, self._printed = "", 0.0, 0, ""
        self._next = time.monotonic() + interval

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` items of a stage are complete."""
        now = time.monotonic()
        if stage != self._stage:  # the start of a stage is not known; its first report is
            self._stage, self._start, self._first = stage, now, done
        if now < self._next and not (done == total and stage == self._printed):
            return
        self._next, self._printed = now + self._interval, stage
        line = f"{stage} {done}/{total}"
        if self._first < done < total:
            line += f", ETA {format_duration((now - self._start) * (total - done) / (done - self._first))}"
        self._print(line)
