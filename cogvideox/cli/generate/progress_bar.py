"""Progress bar of a generation on stderr, if it is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

from cogvideox.generation.progress import OnStep, Progress

_LABELS = {"invert": "inverting", "denoise": "denoising", "decode": "decoding"}


@contextmanager
def progress_bar(title: str = "") -> Iterator[OnStep]:
    """Show a progress bar for each stage, with elapsed and remaining time. Yields the pipeline's `on_step`."""
    console = Console(stderr=True)
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("ETA"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console, disable=not console.is_terminal) as display:
        tasks: dict[str, rich_progress.TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = display.add_task(title + _LABELS[progress.stage], total=progress.total)
            display.update(tasks[progress.stage], completed=progress.done)

        yield show
