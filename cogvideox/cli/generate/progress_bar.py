"""The progress bar of a generation, on the terminal's error stream; nothing where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console

from cogvideox.generation.pipeline import OnStep, Progress

_DOING = {"invert": "inverting", "denoise": "denoising", "decode": "decoding"}


@contextmanager
def progress_bar(title: str = "") -> Iterator[OnStep]:
    """A line for each stage with the time it has taken and still takes. What it gives is the pipeline's `on_step`."""
    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("ETA"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, disable=not console.is_terminal) as display:
        tasks: dict[str, bars.TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = display.add_task(title + _DOING[progress.stage], total=progress.total)
            display.update(tasks[progress.stage], completed=progress.done)

        yield show
