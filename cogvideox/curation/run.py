"""Run a curation: compute the missing results, then assemble the manifest from all results.

The order is depth-first: the clips of a file are processed before the next file is opened, so rows are completed early,
and memory does not grow with the number of files.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from cogvideox import config
from cogvideox.atomic_io import write_text
from cogvideox.curation.assemble import write_manifest
from cogvideox.curation.files import list_files
from cogvideox.curation.pipeline import DECODING_COST, ProcessClips, ProcessFiles
from cogvideox.curation.recipe import RECIPE, Recipe
from cogvideox.curation.results import RESULTS, ResultStore
from cogvideox.curation.stage import check_columns
from cogvideox.curation.stages.duplicates import Duplicates
from cogvideox.curation.work import CurationProgress, Work
from cogvideox.errors import UserError
from cogvideox.executor.base import Backend
from cogvideox.executor.feed import run_feed, workers_for_memory
from cogvideox.executor.job_array import Shard

RUN = "run.json"


@dataclass(frozen=True)
class Curation:
    """The result of a run.

    Attributes:
        counts: number of rows of the manifest by status; empty if it was not written.
        computed: number of rows that this run computed, by stage.
        unavailable: missing requirements of the signals that were skipped, by signal.
        complete: whether the manifest was written. In a job array, the last job writes it.
    """

    counts: dict[str, int]
    computed: dict[str, int]
    unavailable: dict[str, list[str]]
    progress: CurationProgress
    ignored: list[str]
    complete: bool


def curate(
    raw: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    stage: str | None = None,
    workers: int = 0,
    backend: Backend = "local",
    shard: Shard | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[CurationProgress], None] | None = None,
) -> Curation:
    """Curate the videos and images of a folder, reusing the results of earlier runs in the output folder.

    Args:
        stage: run only this stage or signal, after probe and split.
        workers: number of processes; 0 for this process or, with Ray, the whole cluster.
        shard: this job of a job array.
        retry_failed: retry rows that failed in earlier runs.

    Raises:
        UserError: the raw folder does not exist, a requirement of a stage is missing, another run uses the output
            folder, or the output cannot be written.
    """
    raw, output, recipe, shard = Path(raw), Path(output), recipe or Recipe(), shard or Shard()
    signals, unavailable = choose_signals(recipe, stage)
    check_stages(recipe, signals.values())
    if recipe.signals is None:
        recipe = replace(recipe, signals={name: config.to_dict(signal) for name, signal in signals.items()})
    files, ignored = list_files(raw, output)
    job = f"{shard.rank}-of-{shard.world}"
    folder = output / RESULTS
    with locked(folder / f"lock-{job}", output):
        all_stages = [recipe.probe, recipe.split, recipe.cut, *signals.values()]
        todo = [recipe.cut.name, *signals]
        if stage is not None:
            todo = [name for name in todo if name == stage]
        store = ResultStore(output, all_stages, job)
        key = config.digest(_Jobs([file.key for file in files], store.fingerprints, stage, retry_failed))
        done = folder / f"done-{key}"
        shard.file(done, ".txt").unlink(missing_ok=True)  # of an earlier run
        if retry_failed:
            store.forget_failures()
        work = Work(shard.of(files), store, output, recipe, todo, split=stage != recipe.probe.name)
        tasks = [
            ProcessFiles(recipe.probe, recipe.split, recipe.retries),
            ProcessClips((recipe.cut,), tuple(signals.values()), recipe.retries),
        ]
        if backend == "local" and workers:
            workers = workers_for_memory(workers, max(1, sum(each.memory for each in all_stages)))
        for outcome in run_feed(tasks, work.next_batch, workers=workers, backend=backend):
            work.handle(outcome)
            if on_progress is not None:
                on_progress(work.progress)
        store.compact()
        config.save(recipe, output / RECIPE)
        counts: dict[str, int] = {}
        write_text(shard.file(done, ".txt"), "")
        if complete := shard.all_done(done, ".txt") is not None:
            with filelock.FileLock(folder / "lock-manifest"):
                store = ResultStore(output, all_stages, job)
                counts = dict(write_manifest(files, store, recipe, list(signals.values()), raw, output))
            shutil.rmtree(done, ignore_errors=True)
        progress = work.progress
        record: dict[str, Any] = {
            "rows": progress.rows,
            "seconds": progress.seconds,
            "elapsed": progress.elapsed,
            "workers": workers,
        }
        record["raw"] = os.path.relpath(raw.resolve(), output.resolve()).replace(os.sep, "/")
        write_text(output / RUN, json.dumps(record, indent=2) + "\n")
    return Curation(counts, dict(progress.rows), unavailable, progress, ignored, complete)


def choose_signals(recipe: Recipe, stage: str | None = None) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the signals to run, and the missing requirements of those to skip.

    Raises:
        UserError: the recipe or `stage` names a signal that cannot run, or `stage` does not exist.
    """
    signals = recipe.build_signals()
    known = [recipe.probe.name, recipe.split.name, recipe.cut.name, *signals]
    if stage is not None and stage not in known:
        raise UserError(f"unknown stage {stage}; available: {', '.join(known)}")
    unavailable = {name: missing for name, signal in signals.items() if (missing := signal.missing_requirements())}
    required = [name for name in unavailable if recipe.signals is not None or name == stage]
    if required:
        raise UserError("; ".join(f"signal {name} cannot run: {', '.join(unavailable[name])}" for name in required))
    return {name: signal for name, signal in signals.items() if name not in unavailable}, unavailable


def check_stages(recipe: Recipe, signals: Iterable[Any] = ()) -> None:
    """Check the requirements of all stages before anything starts.

    Raises:
        UserError: a codec or a package is missing, or no signal writes the column of embeddings or one that the model
            of labels reads.
        ValueError: the declarations of the stages are inconsistent.
    """
    signals = list(signals)
    check_columns([recipe.probe, recipe.split, recipe.cut, *signals, recipe.labels, recipe.duplicates])
    recipe.labels.check([column.name for signal in signals for column in signal.columns])
    embedding = recipe.duplicates.embedding
    lists = [column.name for signal in signals for column in signal.columns if column.type == "floats"]
    if embedding not in (Duplicates.embedding, *lists):
        allowed = ", ".join(sorted(name for name in lists if name.endswith(".embedding"))) or "none"
        raise UserError(
            f"duplicates.embedding={embedding} is not a column of a signal of this run; available: {allowed}"
        )
    problems = [
        f"stage {stage.name} cannot run: {need}"
        for stage in (recipe.probe, recipe.split, recipe.cut)
        for need in stage.missing_requirements()
    ]
    if problems:
        raise UserError("; ".join(problems))


def locked(path: Path, output: Path) -> Any:
    """Lock a job of an output folder, and return a context manager that releases the lock.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(path).acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another run is writing to {output}: wait for it, or choose another folder") from None


@dataclass(frozen=True)
class CurationEstimate:
    """The estimated work of a run.

    Attributes:
        video_seconds: total duration of all videos.
        seconds: duration of a run without cached results.
        unavailable: missing requirements of the signals that will be skipped, by signal.
    """

    num_files: int
    num_bytes: int
    video_seconds: float
    seconds: float
    unavailable: dict[str, list[str]]


def estimate(raw: Path, output: Path, recipe: Recipe, workers: int) -> CurationEstimate:
    """Estimate a run from the duration of a few files and the typical cost of each stage.

    Raises:
        UserError: see `curate`.
    """
    from cogvideox.video import io

    signals, unavailable = choose_signals(recipe)
    check_stages(recipe, signals.values())
    files, _ = list_files(raw, output)
    num_bytes = sum(file.num_bytes for file in files)
    seconds = sampled = 0.0
    small = [file for file in files if 0 < file.num_bytes < 2**26]
    for file in small[:: max(1, len(small) // 8)][:8]:
        try:
            info = io.probe(file.path)
        except UserError:
            continue
        seconds += 0.0 if info.is_image else info.seconds
        sampled += file.num_bytes
    video_seconds = seconds * num_bytes / sampled if sampled else 0.0
    stages = [recipe.probe, recipe.split, *signals.values(), *([recipe.cut] if recipe.cut.mode == "encode" else [])]
    decoding = DECODING_COST if any(signal.samplings for signal in signals.values()) else 0.0
    work = video_seconds * (decoding + sum(stage.cost for stage in stages)) / max(1, workers)
    return CurationEstimate(len(files), num_bytes, video_seconds, work, unavailable)


@dataclass(frozen=True)
class _Jobs:
    """Settings that all jobs of an array have in common; their hash names the folder of their completion markers."""

    files: list[str]
    fingerprints: Mapping[str, str]
    stage: str | None
    retry_failed: bool
