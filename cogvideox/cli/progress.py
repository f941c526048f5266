"""The progress bar of a generation, on the terminal's error stream; nothing where there is no terminal."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from cogvideox.generation import pipeline

_VERBS = {"denoise": "denoising", "decode": "decoding"}


class Bar:
    """One line a stage, with the time it still takes. Use it as a context, and as the pipeline's `on_step`."""

    def __init__(self, title: str = "") -> None:
        console = Console(stderr=True)
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {stage: self._progress.add_task("", visible=False) for stage in _VERBS}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, progress: "pipeline.Progress") -> None:
        description = f"{self._title}{_VERBS[progress.stage]}"
        task = self._tasks[progress.stage]
        self._progress.update(
            task, description=description, completed=progress.done, total=progress.total, visible=True
        )
