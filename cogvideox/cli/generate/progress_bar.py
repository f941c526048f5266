"""Progress of a generation on stderr: a bar on a terminal, otherwise a line every 10 seconds, as for log files."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

from cogvideox.cli.common.messages import print_message
from cogvideox.formatting import format_duration
from cogvideox.generation.progress import OnStep, Progress

LINE_INTERVAL = 10.0
"""Seconds between the lines of `ProgressLines`."""

_LABELS = {"invert": "inverting", "denoise": "denoising", "decode": "decoding"}


@contextmanager
def progress_bar(title: str = "") -> Iterator[OnStep]:
    """Show the progress of each stage, with the remaining time. Yields the pipeline's `on_step`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(title, LINE_INTERVAL)
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("ETA"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as display:
        tasks: dict[str, rich_progress.TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = display.add_task(title + _LABELS[progress.stage], total=progress.total)
            display.update(tasks[progress.stage], completed=progress.done)

        yield show


class ProgressLines:
    """Prints a line with the progress and the remaining time of the stage every `interval` seconds."""

    def __init__(self, title: str, interval: float) -> None:
        self._title, self._interval = title, interval
        self._stage, self._start, self._first = "", 0.0, 0
        self._next = time.monotonic() + interval

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage:  # the start of a stage is not known; its first report is
            self._stage, self._start, self._first = progress.stage, now, progress.done
        if now < self._next:
            return
        self._next = now + self._interval
        line = f"{self._title}{_LABELS[progress.stage]} {progress.done}/{progress.total}"
        if progress.done > self._first:
            seconds = (now - self._start) * (progress.total - progress.done) / (progress.done - self._first)
            line += f", ETA {format_duration(seconds)}"
        print_message(line)
