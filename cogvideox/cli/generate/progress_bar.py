"""Progress of a generation on stderr: a bar on a terminal, otherwise a line every 10 seconds, as for log files."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

from cogvideox.cli.common.messages import print_message
from cogvideox.generation.progress import GenerationProgress, OnStep
from cogvideox.progress import ProgressLines

_LABELS = {"invert": "inverting", "denoise": "denoising", "decode": "decoding"}


@contextmanager
def progress_bar(title: str = "") -> Iterator[OnStep]:
    """Show the progress of each stage, with the remaining time. Yields the pipeline's `on_step`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = ProgressLines(print_message)
        yield lambda progress: lines(title + _LABELS[progress.stage], progress.done, progress.total)
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

        def show(progress: GenerationProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = display.add_task(title + _LABELS[progress.stage], total=progress.total)
            display.update(tasks[progress.stage], completed=progress.done)

        yield show
