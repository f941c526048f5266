"""Tasks that run in workers: probe and split of files, cut and signals of clips.

A clip is decoded once for all signals. If a row fails, its result contains the reason. `UserError` means that the file
is at fault. Other errors may be temporary, such as those of a network disk, and are retried a few times.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cogvideox.curation.results import Result
from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Row, Value
from cogvideox.curation.stages.split import reduce
from cogvideox.errors import UserError
from cogvideox.untrusted.files import check_limit

DECODE = "decode"
"""Name under which reports list the time spent decoding frames for the signals."""
DECODING_COST = 0.08
"""Typical CPU seconds per second of video for decoding frames for the signals; see `Stage.cost`."""


@dataclass(frozen=True)
class FileItem:
    """A file to process.

    Attributes:
        probed: columns that `probe` wrote in an earlier run; None to run it.
        split: whether to split the file.
    """

    key: str
    path: str
    probed: Mapping[str, Value] | None
    split: bool


@dataclass(frozen=True)
class ClipItem:
    """A clip to process.

    Attributes:
        row: its columns so far, with `path` and `out`.
        todo: names of the stages and signals to run.
    """

    row: Row
    todo: tuple[str, ...]


@dataclass(frozen=True)
class Computed:
    """The results of a batch, and the time spent outside of stages, by name (`DECODE`)."""

    results: list[Result]
    seconds: dict[str, float]


@dataclass(frozen=True)
class ProcessFiles:
    """Batch task that probes and splits files. It loads no models, so Ray can run it as stateless tasks."""

    stateless: ClassVar[bool] = True

    probe: Any
    split: Any
    retries: int

    def open(self, worker: int) -> Callable[[Sequence[FileItem]], Computed]:
        """See `executor.base.BatchTask`."""
        check_available([self.probe, self.split])
        probe, split = self.probe.open(), self.split.open()
        return lambda batch: Computed([result for item in batch for result in self._process(probe, split, item)], {})

    def _process(self, probe: Callable, split: Callable, item: FileItem) -> Iterator[Result]:
        probed, row = item.probed, {"path": item.path}
        if probed is None:
            result = attempt(self.probe.name, item.key, lambda: probe(row), self.retries, item.path)
            yield result
            if result.error is not None:
                return
            probed = result.values
        if item.split:
            row |= probed
            yield attempt(self.split.name, probed["source_id"], lambda: split(row), self.retries, item.path)


@dataclass(frozen=True)
class ProcessClips:
    """Batch task that cuts and measures clips. Each worker loads a model when it first needs it."""

    stages: tuple[Any, ...]
    signals: tuple[Any, ...]
    retries: int

    def open(self, worker: int) -> Callable[[Sequence[ClipItem]], Computed]:
        """See `executor.base.BatchTask`."""
        check_available([*self.stages, *self.signals])
        opened: dict[str, Callable[[Any], Mapping[str, Value]]] = {}
        by_name = {stage.name: stage for stage in (*self.stages, *self.signals)}
        stage_names = {stage.name for stage in self.stages}

        def function(name: str) -> Callable[[Any], Mapping[str, Value]]:
            if name not in opened:
                opened[name] = load(by_name[name])
            return opened[name]

        def work(batch: Sequence[ClipItem]) -> Computed:
            results: list[Result] = []
            decoding = 0.0
            for item in batch:
                row = item.row
                for name in (name for name in item.todo if name in stage_names):
                    compute = partial(function(name), row)
                    results.append(attempt(name, row["id"], compute, self.retries, row["path"]))
                signals = [by_name[name] for name in item.todo if name not in stage_names]
                measured, seconds = measure(row, signals, function, self.retries)
                results += measured
                decoding += seconds
            return Computed(results, {DECODE: decoding} if decoding else {})

        return work


def load(stage: Any) -> Callable[[Any], Mapping[str, Value]]:
    """Open a stage or signal. If that fails, no row is at fault, so the UserError ends the run."""
    try:
        return stage.open()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{stage.name} cannot be loaded: {type(error).__name__}: {error}") from error


def check_available(stages: Sequence[Any]) -> None:
    """Raise UserError if a requirement of a stage is missing on this machine."""
    missing = [f"{stage.name} cannot run: {need}" for stage in stages for need in stage.missing_requirements()]
    if missing:
        raise UserError("; ".join(missing))


def attempt(stage: str, id: str, compute: Callable[[], Mapping[str, Value]], retries: int, path: str) -> Result:
    """Compute the columns of a row, with retries, and return them or the reason for the failure."""
    start = time.perf_counter()
    error, number = "", 0
    while number <= retries:
        number += 1
        try:
            values = compute()
            return Result(stage, id, values, None, number, time.perf_counter() - start)
        except UserError as problem:
            error = str(problem).removeprefix(f"cannot read {path}: ")
            break
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
    return Result(stage, id, {}, " ".join(error.split())[:500], number, time.perf_counter() - start)


def measure(
    row: Row, signals: Sequence[Any], function: Callable[[str], Callable[[Any], Mapping[str, Value]]], retries: int
) -> tuple[list[Result], float]:
    """Decode a clip once, if any signal needs frames, and compute the columns of all signals.

    Returns:
        One result per signal, and the seconds spent decoding.
    """
    if not signals:
        return [], 0.0
    path, id = Path(row["path"]), row["id"]
    functions = [function(signal.name) for signal in signals]
    start = time.perf_counter()
    samplings = list(dict.fromkeys(sampling for signal in signals for sampling in signal.samplings))
    decoded = attempt(
        DECODE, id, lambda: {"frames": sample_frames(row, samplings) if samplings else []}, retries, str(path)
    )
    seconds = time.perf_counter() - start if samplings else 0.0
    if decoded.error is not None:
        return [Result(signal.name, id, {}, decoded.error, decoded.attempts) for signal in signals], seconds
    sampled = dict(zip(samplings, decoded.values["frames"]))
    results = []
    for signal, measure_clip in zip(signals, functions):
        frames = tuple(sampled[sampling] for sampling in signal.samplings)
        clip = ClipInput(row, frames, path, row["start"], row["end"])

        def compute(measure_clip: Callable = measure_clip, clip: ClipInput = clip) -> dict[str, Value]:
            return {column: plain(value) for column, value in measure_clip(clip).items()}

        results.append(attempt(signal.name, id, compute, retries, str(path)))
    return results, seconds


def plain(value: Value) -> Value:
    """Convert NumPy values to Python values; numbers that are not finite become None."""
    if isinstance(value, np.ndarray):
        return [plain(part) for part in value.tolist()]
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sample_frames(row: Row, samplings: Sequence[Sampling]) -> list[SampledFrames]:
    """Decode a clip once and return its frames for each sampling.

    Raises:
        UserError: the clip cannot be decoded, or has more pixels than the limit.
    """
    from cogvideox.video import stream

    start, end = row["start"], row["end"]
    is_image = row["is_image"]
    requested = [sampling.times(start, end) for sampling in samplings]
    outputs: list[tuple[list[Any], list[float]]] = [([], []) for _ in samplings]
    num_pixels = 0
    previous = None
    for frame in chain(stream.frames(Path(row["path"]), start, None if is_image else end), [None]):
        if previous is not None:
            # A frame is shown until the next one, and the last frame until the end of the clip.
            until = math.inf if frame is None else frame.time
            rgb, reduced = None, {}
            for sampling, times, (frames, shown) in zip(samplings, requested, outputs):
                if times is not None and not (times and times[0] < until):
                    continue
                while times and times[0] < until:
                    times.pop(0)
                side = sampling.longest_side
                if side not in reduced:
                    rgb = previous.rgb() if rgb is None else rgb
                    reduced[side] = reduce(rgb, side)
                    num_pixels += reduced[side].shape[0] * reduced[side].shape[1]
                    check_limit("VIDEO_PIXELS", num_pixels, "the number of pixels of the clip's frames for signals")
                frames.append(reduced[side])
                shown.append(max(0.0, previous.time - start))
        previous = frame
    if previous is None and not any(frames for frames, _ in outputs):
        raise UserError(f"it has no frame between {start:g} s and {end:g} s")
    return [SampledFrames(np.stack(frames), np.array(shown), end - start) for frames, shown in outputs]
