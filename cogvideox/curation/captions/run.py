"""Resumable captioning of the clips in a folder: stage results and model responses are stored immediately.

OUT/captions.parquet      a row per clip: all captions, problems, attempts, tokens, costs
OUT/metadata.parquet      the clips with a usable caption, for `encode` and `train`
OUT/captions.json         totals of the run
OUT/pipeline.yaml         the pipeline config
OUT/mix-policy.yaml       filter policy for short and long captions, if `short_fraction` is set
OUT/caption-style.yaml    caption lengths and examples, for rewriting prompts in the same style
OUT/responses.sqlite      every response of every model
OUT/results/              results of the stages
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from cogvideox import config
from cogvideox.atomic_io import write_text
from cogvideox.curation.captions.clips import list_clips
from cogvideox.curation.captions.config import CaptionPipelineConfig
from cogvideox.curation.captions.outputs import CAPTIONS, METADATA, caption_style, captions_table, training_table
from cogvideox.curation.captions.pipeline import CaptionPipeline, open_pipeline
from cogvideox.curation.manifest import write_table
from cogvideox.curation.pipeline import sample_frames
from cogvideox.curation.results import RESULTS, Result, ResultStore
from cogvideox.curation.stage import Row, Value
from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache, Spent
from cogvideox.llm.client import Usage, run_concurrently

CONFIG, SUMMARY, POLICY, RESPONSES = "pipeline.yaml", "captions.json", "mix-policy.yaml", "responses.sqlite"
STYLE = "caption-style.yaml"


@dataclass(frozen=True)
class CaptionProgress:
    """The progress of a run.

    Attributes:
        clips: number of distinct clips.
        done: clips completed in this run.
        known: clips completed in earlier runs.
        usage: token usage of all models in this run.
        elapsed: seconds since the start of the run.
    """

    clips: int
    done: int = 0
    known: int = 0
    usage: Usage = field(default_factory=Usage)
    elapsed: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second."""
        return self.usage.completion_tokens / max(self.elapsed, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time remaining, in seconds; None before the first clip is done."""
        left = self.clips - self.known - self.done
        return self.elapsed / self.done * left if self.done else None


@dataclass(frozen=True)
class CaptionRunResult:
    """The result of a run.

    Attributes:
        statuses: number of clips by status: ok, rejected (a caption with problems), failed, pending.
        problems: number of problems of each kind, by stage.
        usage: token usage of all models in this run.
        spent: totals of all runs with this output folder.
        seconds: duration of the run.
        missing: missing requirements of the signals that were not measured.
    """

    statuses: dict[str, int]
    problems: dict[str, dict[str, int]]
    usage: Usage
    spent: Spent
    seconds: float
    missing: dict[str, list[str]]


def caption_folder(
    source: str | Path,
    output: str | Path,
    pipeline_config: CaptionPipelineConfig,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[CaptionProgress], None] | None = None,
) -> CaptionRunResult:
    """Caption the clips of a folder that `curate` wrote, or of any folder of videos and images.

    Args:
        source: folder with the clips.
        output: folder to write to.
        pipeline_config: stages, models and checks.
        limit: maximum number of clips to caption.
        retry_failed: retry clips that failed in earlier runs, including stored errors.
        on_progress: callback after each clip.

    Raises:
        UserError: the folder does not exist or has no clips; a model cannot be opened or reached; the budget is
            exhausted (completed results are saved); another run is using the output folder.
    """
    source, output, start = Path(source), Path(output), time.perf_counter()
    (output / RESULTS).mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(output / RESULTS / "lock-captions").acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another run is writing to {output}: wait for it, or choose a different folder") from None
    with lock:
        clips = list_clips(source, output)
        cache = ResponseCache(output / RESPONSES)
        try:
            if retry_failed:
                cache.forget_errors()
            pipeline = open_pipeline(pipeline_config, cache)
            try:
                return _caption(source, output, clips, limit, pipeline, cache, start, retry_failed, on_progress)
            finally:
                pipeline.close()
        finally:
            cache.close()


def _caption(
    source: Path,
    output: Path,
    clips: list[dict[str, Any]],
    limit: int | None,
    pipeline: CaptionPipeline,
    cache: ResponseCache,
    start: float,
    retry_failed: bool,
    on_progress: Callable[[CaptionProgress], None] | None,
) -> CaptionRunResult:
    stages = list(pipeline.stages.values())
    store = ResultStore(output, stages, "captions")
    if retry_failed:
        store.forget_failures()
    lock = threading.Lock()

    def record(result: Result) -> None:
        with lock:
            store.add([result])

    def work(clip: dict[str, Any]) -> None:
        pipeline.caption(clip, _known(store, pipeline, clip["id"]), sample_frames, record)

    def usage() -> Usage:
        return sum((client.usage for client in pipeline.clients.values()), Usage())

    def stop() -> None:
        for client in pipeline.clients.values():
            client.stop()

    distinct = list({clip["id"]: clip for clip in clips}.values())[:limit]
    # Tables keep the clips that an earlier run with a higher limit captioned.
    ids = {clip["id"] for clip in distinct}
    clips = [clip for clip in clips if clip["id"] in ids or all(store.has(stage.name, clip["id"]) for stage in stages)]
    todo = [clip for clip in distinct if not all(store.has(stage.name, clip["id"]) for stage in stages)]
    known, done = len(distinct) - len(todo), 0
    try:
        for _ in run_concurrently(work, todo, pipeline.concurrency, stop):
            done += 1
            if on_progress is not None:
                elapsed = time.perf_counter() - start
                on_progress(CaptionProgress(len(distinct), done, known, usage(), elapsed))
    finally:
        store.compact()
        result = _write(source, output, clips, pipeline, stages, cache, usage(), time.perf_counter() - start)
    return result


def _known(store: ResultStore, pipeline: CaptionPipeline, id: str) -> Mapping[str, Mapping[str, Value]]:
    """Return the stored result columns by stage; empty for a failed stage."""
    known = {}
    for name, stage in pipeline.stages.items():
        result = store.get(stage.name, id) if store.has(stage.name, id) else None
        if result is not None:
            known[name] = result.values
    return known


def _write(
    source: Path,
    output: Path,
    clips: list[dict[str, Any]],
    pipeline: CaptionPipeline,
    stages: list[Any],
    cache: ResponseCache,
    usage: Usage,
    seconds: float,
) -> CaptionRunResult:
    """Write all output files from the results of this and earlier runs."""
    store = ResultStore(output, stages, "captions")
    rows: list[Row] = []
    for clip in clips:
        row: dict[str, Value] = dict(clip)
        errors = []
        pending = False
        for name, stage in pipeline.stages.items():
            result = store.get(stage.name, clip["id"])
            pending |= result is None
            if result is not None:
                row |= result.values
                errors += [f"{name}: {result.error}"] if result.error is not None else []
        row["status"], row["reason"] = _status(pipeline.config, row, errors, pending)
        rows.append(row)
    table = captions_table(rows)
    write_table(table, output / CAPTIONS)
    write_table(training_table(rows, pipeline.config, source, output), output / METADATA)
    config.save(pipeline.config, output / CONFIG)
    if pipeline.config.short_fraction is not None:
        config.save(pipeline.config.mix_policy(), output / POLICY)
    config.save(caption_style(rows, pipeline.config), output / STYLE)
    problems = count_problems(rows, pipeline.config)
    spent = cache.spent()
    statuses = dict(Counter(row["status"] for row in rows))
    result = CaptionRunResult(statuses, problems, usage, spent, seconds, pipeline.measurer.missing)
    summary = {"source": str(source.resolve()), **asdict(result)}
    write_text(output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return result


def _status(
    pipeline_config: CaptionPipelineConfig, row: Row, errors: list[str], pending: bool
) -> tuple[str, str | None]:
    """Return the status of a clip and its reason. Determined by the caption used for training."""
    if errors:
        return "failed", errors[0]
    if pending:
        return "pending", None
    stage = pipeline_config.long_stage or ("short" if pipeline_config.short is not None else "frames")
    problems = row.get(f"caption.{stage}_problems")
    if stage == "frames":  # single frames may fail
        problems = problems if row.get("caption.frames") == "[]" else None
    return ("rejected", problems) if problems else ("ok", None)


def count_problems(rows: list[Row], pipeline_config: CaptionPipelineConfig) -> dict[str, dict[str, int]]:
    """Return the number of problems of each kind, by stage."""
    counts: dict[str, dict[str, int]] = {}
    for name in pipeline_config.stages:
        lines = [line for row in rows for line in (row.get(f"caption.{name}_problems") or "").split("\n") if line]
        counts[name] = dict(Counter(line.partition(":")[0] for line in lines))
    return counts
