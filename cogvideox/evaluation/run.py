"""Run an evaluation: generate missing videos, measure them, summarize. Interrupted runs continue where they stopped.

OUT/videos/               generated videos, with their JSON sidecars
OUT/measurements.jsonl    measurements of single videos (`store`)
OUT/run.json              generation settings; runs with different settings cannot use the folder
OUT/responses.sqlite      responses of endpoints, if a scorer uses one
OUT/results.json          scores with protocols, and all measurements (`results`)
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from cogvideox.atomic_io import cannot_write, remove_stale_files, write_text
from cogvideox.errors import UserError
from cogvideox.evaluation.protocol import UNKNOWN
from cogvideox.evaluation.results import EvaluationResults, summarize
from cogvideox.evaluation.scorer import EvaluationStopped, Item, Measurement, Scorer, VideoFile
from cogvideox.evaluation.store import MeasurementStore, file_hash, measurement_key
from cogvideox.evaluation.suite import Suite
from cogvideox.evaluation.videos import VIDEOS, GenerateVideos, VideoSet
from cogvideox.executor.base import Backend, Outcome
from cogvideox.executor.feed import run_feed
from cogvideox.untrusted.files import parse_json, read_text
from cogvideox.untrusted.text_encoding import dump_json

RUN = "run.json"
RESPONSES = "responses.sqlite"
LOST = "its worker process ended, probably because memory ran out: use fewer workers"


@dataclass
class EvaluationProgress:
    """The progress of an evaluation.

    Attributes:
        generated, measured: finished tasks of this run.
        to_generate, to_measure: all tasks of this run.
        failures: videos that could not be generated, and measurements that failed.
        seconds: processing time, by kind: "generate" and the scorers' names.
    """

    to_generate: int = 0
    to_measure: dict[str, int] = field(default_factory=dict)
    generated: int = 0
    measured: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    workers: int = 1
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left; None before anything is finished."""
        done = {"generate": self.generated, **self.measured}
        left = {"generate": self.to_generate - self.generated}
        left |= {name: number - self.measured.get(name, 0) for name, number in self.to_measure.items()}
        if not any(done.values()):
            return None
        total = 0.0
        for name, number in left.items():
            if number and not done.get(name):
                return None
            total += number * self.seconds.get(name, 0.0) / max(done.get(name, 0), 1)
        return total / self.workers

    def rates(self) -> dict[str, float]:
        """Return the videos per second per process, by kind."""
        done = {"generate": self.generated, **self.measured}
        return {name: done[name] / seconds for name, seconds in self.seconds.items() if seconds > 0 and done.get(name)}


def evaluate(
    videos: VideoSet,
    suite: Suite,
    output: Path,
    *,
    workers: int = 0,
    backend: Backend = "local",
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> EvaluationResults:
    """Generate, measure and summarize, and write `results.json`.

    Args:
        workers: number of processes; 0: this process.

    Raises:
        UserError: the folder belongs to a different run, is in use, or cannot be written.
    """
    suite = _with_responses(suite, output, workers, backend)
    with _locked(output):
        _check_same_run(videos, output)
        remove_stale_files(output, output / VIDEOS)
        store = MeasurementStore(output)
        try:
            run = _Run(videos, suite, store, EvaluationProgress(workers=max(workers, 1)))
            tasks = [*run.generate_tasks(workers), *(MeasureVideos(scorer) for scorer in suite.scorers)]
            run.first_scorer = len(tasks) - len(suite.scorers)
            for outcome in run_feed(tasks, run.next_batch, workers=workers, backend=backend):
                run.handle(outcome)
                on_progress(run.progress)
        finally:
            store.close()
        results = summarize(suite, videos, run.measurements, run.errors)
        results.save(output)
        return results


@dataclass(frozen=True)
class MeasureVideos:
    """Batch task that measures videos: maps (item, file) to (measurement, error, seconds)."""

    scorer: Scorer

    def open(self, worker: int) -> Callable[[Sequence[tuple[Item, Path]]], tuple[Measurement | None, str, float]]:
        """Load the scorer's models."""
        measure = self.scorer.open(worker)

        def run(batch: Sequence[tuple[Item, Path]]) -> tuple[Measurement | None, str, float]:
            ((item, path),) = batch
            start = time.perf_counter()
            try:
                file = VideoFile(path, item.info.get("start"), item.info.get("end"))
                measurement, error = measure(file, item), ""
            except EvaluationStopped:
                raise
            except UserError as failure:
                measurement, error = None, str(failure)
            if measurement is not None and not _is_finite(measurement):
                measurement, error = None, "a measured value is not finite"
            return measurement, error, time.perf_counter() - start

        return run


@dataclass
class _Run:
    """The remaining tasks, and the measurements so far.

    Attributes:
        measurements: by scorer and item.
        errors: reasons for failures by scorer and item; the scorer of failed generations is "".
    """

    videos: VideoSet
    suite: Suite
    store: MeasurementStore
    progress: EvaluationProgress
    first_scorer: int = 0
    measurements: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_path = {self.videos.paths[item.id]: item for item in self.videos.items}
        self._missing = deque(item for item in self.videos.items if self.videos.is_missing(item))
        self._to_measure: deque[tuple[int, Item]] = deque()
        self._started: dict[str, float] = {}
        self._settings = {scorer.name: scorer.settings() for scorer in self.suite.scorers}
        self._keys: dict[tuple[str, str], str] = {}
        missing = {item.id for item in self._missing}
        self.progress.to_generate = len(missing)
        for item in self.videos.items:
            if item.id in missing:
                for scorer in self._scorers_of(item):
                    self._count(scorer.name)
            else:
                self._queue(item)

    def generate_tasks(self, workers: int) -> list[GenerateVideos]:
        """Return the task that generates videos, if any are missing."""
        if not self._missing:
            return []
        assert self.videos.load is not None
        threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        return [GenerateVideos(self.videos.load, threads, self.videos.loras)]

    def next_batch(self) -> tuple[int, Sequence[Any]] | None:
        """Return the next batch; measurements come first, so that the first scores are available early."""
        if self._to_measure:
            index, item = self._to_measure.popleft()
            return self.first_scorer + index, [(item, self.videos.paths[item.id])]
        if self._missing:
            item = self._missing.popleft()
            self._started[item.id] = time.monotonic()
            return 0, [(self.videos.requests[item.id], self.videos.paths[item.id])]
        return None

    def handle(self, outcome: Outcome) -> None:
        """Store a result, and queue the measurements of a new video."""
        if outcome.task < self.first_scorer:
            item = self._by_path[outcome.batch[0][1]]
            elapsed = time.monotonic() - self._started.pop(item.id)
            self.progress.seconds["generate"] = self.progress.seconds.get("generate", 0.0) + elapsed
            self.progress.generated += 1
            if error := LOST if outcome.lost else outcome.result:
                self._fail("", item, error)
            else:
                self._queue(item, counted=True)
            return
        scorer, item = self.suite.scorers[outcome.task - self.first_scorer], outcome.batch[0][0]
        self.progress.measured[scorer.name] = self.progress.measured.get(scorer.name, 0) + 1
        measurement, error, seconds = (None, LOST, 0.0) if outcome.lost else outcome.result
        self.progress.seconds[scorer.name] = self.progress.seconds.get(scorer.name, 0.0) + seconds
        if measurement is None:
            self._fail(scorer.name, item, error)
            return
        key = self._keys.pop((scorer.name, item.id))
        self.store.add(key, scorer.name, item.id, measurement)
        self._set(scorer.name, item, key)

    def _queue(self, item: Item, *, counted: bool = False) -> None:
        """Queue the measurements of a video that are not stored."""
        try:
            video_hash = file_hash(self.videos.paths[item.id])
        except UserError as error:
            self._fail("", item, str(error))
            return
        weights = self.videos.protocol.weights
        for scorer in self._scorers_of(item):
            key = measurement_key(scorer.name, self._settings[scorer.name], item, video_hash, weights)
            if self.store.get(key) is None:
                self._keys[scorer.name, item.id] = key
                self._to_measure.append((self.suite.scorers.index(scorer), item))
                if not counted:
                    self._count(scorer.name)
            else:
                self._set(scorer.name, item, key)

    def _scorers_of(self, item: Item) -> Iterable[Scorer]:
        return (scorer for scorer in self.suite.scorers if not scorer.groups or item.group in scorer.groups)

    def _count(self, name: str) -> None:
        self.progress.to_measure[name] = self.progress.to_measure.get(name, 0) + 1

    def _set(self, scorer: str, item: Item, key: str) -> None:
        measurement = self.store.get(key)
        assert measurement is not None
        self.measurements.setdefault(scorer, {})[item.id] = measurement

    def _fail(self, scorer: str, item: Item, error: str) -> None:
        self.errors.setdefault(scorer, {})[item.id] = error
        self.progress.failures += 1


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _with_responses(suite: Suite, output: Path, workers: int, backend: Backend) -> Suite:
    """Set the file of stored responses of scorers that use an endpoint, which one process may open."""
    paid = [scorer.name for scorer in suite.scorers if getattr(scorer, "uses_endpoint", False)]
    if not paid:
        return suite
    if workers > 1 or backend == "ray":
        raise UserError(
            f"{paid[0]} uses an endpoint, whose budget is counted in one process: remove --workers and --ray"
        )
    scorers: list[Any] = [
        replace(scorer, responses=output / RESPONSES) if scorer.name in paid else scorer
        for scorer in cast(tuple[Any, ...], suite.scorers)
    ]
    return replace(suite, scorers=tuple(scorers))


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / "run.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{output} is in use by another evaluation: wait for it, or choose a different -o") from None
    except OSError as error:
        raise cannot_write(output, error) from error
    try:
        yield
    finally:
        lock.release()


def _check_same_run(videos: VideoSet, output: Path) -> None:
    """Record the generation settings, or raise UserError if the folder has videos of a different model or settings."""
    if videos.protocol.weights == UNKNOWN:  # a folder of videos
        return
    values = {name: value for name, value in asdict(videos.protocol).items() if name != "code"}
    path = output / RUN
    if not path.exists():
        write_text(path, dump_json(values) + "\n")
        return
    try:
        recorded = dict(parse_json(read_text(path)))
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{path} is damaged: delete {output} to generate its videos again, or choose a different -o"
        ) from None
    for name, value in values.items():
        if recorded.get(name) != value:
            raise UserError(
                f"{output} has videos of a different run, with {name}={recorded.get(name)} instead of {value}: "
                "choose a different -o, or delete the folder"
            )
