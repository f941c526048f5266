"""Experiment trackers of a run together: each step is sent once, and their errors do not end the run."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from cogvideox.atomic_io import write_text
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, read_text

_SAMPLES = "samples/video"
"""Name of the samples in the steps file; "samples" is a metric."""


@runtime_checkable
class ExperimentTracker(Protocol):
    """The run in one tracker.

    Attributes:
        purges_repeated_steps: whether the steps that a resumed run repeats replace the earlier ones. Otherwise, they
            are not logged again.
    """

    purges_repeated_steps: bool

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Log metrics after `step` optimizer steps."""

    def log_samples(self, step: int, sheet: Path, video: Path) -> None:
        """Log a sample sheet: an image and a video (`training.sample_sheet`)."""

    def close(self, *, failed: bool) -> None:
        """Write what is buffered, and end the run."""


class TrackerGroup:
    """The open experiment trackers of a run.

    A tracker that does not replace repeated steps receives a metric or samples only after the last step at which
    earlier processes have sent it, which `steps_file` keeps. The first error of each tracker is printed; the run, and
    the other trackers, go on.

    Args:
        openers: functions that open the trackers, by name.
        steps_file: JSON file with the last step sent, by tracker and metric; None without trackers.
        note: prints a line.
    """

    def __init__(
        self,
        openers: Mapping[str, Callable[[], ExperimentTracker]] | None = None,
        steps_file: Path | None = None,
        note: Callable[[str], None] = print,
    ) -> None:
        self._steps_file, self._note = steps_file, note
        self._sent = _read_steps(steps_file)
        self._sent_before = {name: dict(steps) for name, steps in self._sent.items()}
        self._trackers: dict[str, ExperimentTracker] = {}
        self._failed: set[str] = set()
        try:
            for name, opener in (openers or {}).items():
                with self._errors_noted(name):
                    self._trackers[name] = opener()
        except BaseException:  # such as Ctrl-C
            self.close(failed=True)
            raise

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Log metrics after `step` optimizer steps in each tracker."""
        for name, tracker in self._trackers.items():
            with self._errors_noted(name):
                if new := {metric: value for metric, value in values.items() if self._is_new(name, metric, step)}:
                    tracker.log(step, new)
                    self._record(name, new, step)

    def log_samples(self, step: int, sheet: Path) -> None:
        """Log a sample sheet and its video (`training.sample_sheet`) in each tracker."""
        for name, tracker in self._trackers.items():
            with self._errors_noted(name):
                if self._is_new(name, _SAMPLES, step):
                    tracker.log_samples(step, sheet, sheet.with_suffix(".mp4"))
                    self._record(name, [_SAMPLES], step)

    def close(self, *, failed: bool) -> None:
        """Close each tracker, which records whether the run failed."""
        for name, tracker in self._trackers.items():
            with self._errors_noted(name):
                tracker.close(failed=failed)

    def _is_new(self, name: str, metric: str, step: int) -> bool:
        tracker = self._trackers[name]
        return tracker.purges_repeated_steps or step > self._sent_before.get(name, {}).get(metric, 0)

    def _record(self, name: str, metrics: Iterable[str], step: int) -> None:
        """Record that a tracker has received metrics."""
        if self._trackers[name].purges_repeated_steps or self._steps_file is None:
            return
        self._sent.setdefault(name, {}).update(dict.fromkeys(metrics, step))
        write_text(self._steps_file, json.dumps(self._sent, indent=1) + "\n")

    @contextmanager
    def _errors_noted(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._note(f"note: the training goes on without what {name} could not record ({reason})")


def _read_steps(file: Path | None) -> dict[str, dict[str, int]]:
    """Read the last steps sent, by tracker and metric; none if the file is missing or damaged."""
    if file is None or not file.exists():
        return {}
    try:
        content = parse_json(read_text(file))
        return {name: {metric: int(step) for metric, step in steps.items()} for name, steps in content.items()}
    except (OSError, UserError, ValueError, TypeError, AttributeError):
        return {}
