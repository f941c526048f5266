"""Caption the clips of a folder, resumable: the results of each rung are stored at once, as is every response.

OUT/captions.parquet      a row per clip: all captions, problems, attempts, tokens, costs
OUT/metadata.parquet      the clips with a usable caption, for `encode` and `train`
OUT/captions.json         totals of the run
OUT/ladder.yaml           the ladder
OUT/mix-policy.yaml       filter policy for short and long captions, if the ladder has `short_fraction`
OUT/caption-style.yaml    length of the captions and examples, for rewriting prompts in their style
OUT/responses.sqlite      every response of every model
OUT/results/              results of the rungs
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
from cogvideox.curation.captions.config import Ladder
from cogvideox.curation.captions.ladder import OpenLadder, open_ladder
from cogvideox.curation.captions.outputs import CAPTIONS, METADATA, caption_style, captions_table, training_table
from cogvideox.curation.manifest import write_table
from cogvideox.curation.pipeline import sample_frames
from cogvideox.curation.results import RESULTS, Result, ResultStore
from cogvideox.curation.stage import Row, Value
from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache, Spent
from cogvideox.llm.client import Usage, run_concurrently

LADDER, SUMMARY, POLICY, RESPONSES = "ladder.yaml", "captions.json", "mix-policy.yaml", "responses.sqlite"
STYLE = "caption-style.yaml"


@dataclass(frozen=True)
class CaptionProgress:
    """The progress of a run.

    Attributes:
        done: clips of this run that went through all rungs; `known` had all results before.
        usage: of all models, in this run.
        elapsed: seconds since the start.
    """

    clips: int
    done: int = 0
    known: int = 0
    usage: Usage = field(default_factory=Usage)
    elapsed: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers over the time of this run."""
        return self.usage.completion_tokens / max(self.elapsed, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated rest of the run; None before the first clip."""
        left = self.clips - self.known - self.done
        return self.elapsed / self.done * left if self.done else None


@dataclass(frozen=True)
class Captioning:
    """The result of a run.

    Attributes:
        statuses: clips by status: ok, rejected (a caption with problems), failed, pending.
        problems: captions with each kind of problem, by rung.
        spent: totals of all runs with this output folder.
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
    ladder: Ladder,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[CaptionProgress], None] | None = None,
) -> Captioning:
    """Caption the clips of a folder that `curate` wrote, or the videos and images of any other folder.

    Args:
        limit: caption at most this many clips.
        retry_failed: try again what failed in earlier runs, including stored errors.

    Raises:
        UserError: no such folder, or no clips; a model cannot be opened or reached; the budget is exhausted (what was
            done is written); another run uses the output folder.
    """
    source, output, start = Path(source), Path(output), time.perf_counter()
    (output / RESULTS).mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(output / RESULTS / "lock-captions").acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another run is writing to {output}: wait for it, or choose another folder") from None
    with lock:
        clips = list_clips(source, output)[:limit]
        cache = ResponseCache(output / RESPONSES)
        try:
            if retry_failed:
                cache.forget_errors()
            opened = open_ladder(ladder, cache)
            try:
                return _caption(source, output, clips, opened, cache, start, retry_failed, on_progress)
            finally:
                opened.close()
        finally:
            cache.close()


def _caption(
    source: Path,
    output: Path,
    clips: list[dict[str, Any]],
    opened: OpenLadder,
    cache: ResponseCache,
    start: float,
    retry_failed: bool,
    on_progress: Callable[[CaptionProgress], None] | None,
) -> Captioning:
    stages = list(opened.stages.values())
    store = ResultStore(output, stages, "captions")
    if retry_failed:
        store.forget_failures()
    lock = threading.Lock()

    def record(result: Result) -> None:
        with lock:
            store.add([result])

    def work(clip: dict[str, Any]) -> None:
        opened.caption(clip, _known(store, opened, clip["id"]), sample_frames, record)

    def usage() -> Usage:
        return sum((client.usage for client in opened.clients.values()), Usage())

    def stop() -> None:
        for client in opened.clients.values():
            client.stop()

    distinct = list({clip["id"]: clip for clip in clips}.values())
    todo = [clip for clip in distinct if not all(store.has(stage.name, clip["id"]) for stage in stages)]
    known, done = len(distinct) - len(todo), 0
    try:
        for _ in run_concurrently(work, todo, opened.concurrency, stop):
            done += 1
            if on_progress is not None:
                elapsed = time.perf_counter() - start
                on_progress(CaptionProgress(len(distinct), done, known, usage(), elapsed))
    finally:
        store.compact()
        result = _write(source, output, clips, opened, stages, cache, usage(), time.perf_counter() - start)
    return result


def _known(store: ResultStore, opened: OpenLadder, id: str) -> Mapping[str, Mapping[str, Value]]:
    """Return the columns of the rungs that have results; those of a failed rung are empty."""
    known = {}
    for name, stage in opened.stages.items():
        result = store.get(stage.name, id) if store.has(stage.name, id) else None
        if result is not None:
            known[name] = result.values
    return known


def _write(
    source: Path,
    output: Path,
    clips: list[dict[str, Any]],
    opened: OpenLadder,
    stages: list[Any],
    cache: ResponseCache,
    usage: Usage,
    seconds: float,
) -> Captioning:
    """Write all files, from the results of this run and of earlier ones."""
    store = ResultStore(output, stages, "captions")
    rows: list[Row] = []
    for clip in clips:
        row: dict[str, Value] = dict(clip)
        errors = []
        pending = False
        for name, stage in opened.stages.items():
            result = store.get(stage.name, clip["id"])
            pending |= result is None
            if result is not None:
                row |= result.values
                errors += [f"{name}: {result.error}"] if result.error is not None else []
        row["status"], row["reason"] = _status(opened.ladder, row, errors, pending)
        rows.append(row)
    table = captions_table(rows)
    write_table(table, output / CAPTIONS)
    write_table(training_table(rows, opened.ladder, source, output), output / METADATA)
    config.save(opened.ladder, output / LADDER)
    if opened.ladder.short_fraction is not None:
        config.save(opened.ladder.mix_policy(), output / POLICY)
    config.save(caption_style(rows, opened.ladder), output / STYLE)
    problems = count_problems(rows, opened.ladder)
    spent = cache.spent()
    statuses = dict(Counter(row["status"] for row in rows))
    result = Captioning(statuses, problems, usage, spent, seconds, opened.measurer.missing)
    summary = {"source": str(source.resolve()), **asdict(result)}
    write_text(output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return result


def _status(ladder: Ladder, row: Row, errors: list[str], pending: bool) -> tuple[str, str | None]:
    """Return the status of a clip and its reason. What counts is the caption that training uses."""
    if errors:
        return "failed", errors[0]
    if pending:
        return "pending", None
    rung = ladder.long_rung or ("short" if ladder.short is not None else "frames")
    problems = row.get(f"caption.{rung}_problems")
    if rung == "frames":  # single frames may fail
        problems = problems if row.get("caption.frames") == "[]" else None
    return ("rejected", problems) if problems else ("ok", None)


def count_problems(rows: list[Row], ladder: Ladder) -> dict[str, dict[str, int]]:
    """Return how many captions have each kind of problem, by rung."""
    counts: dict[str, dict[str, int]] = {}
    for name in ladder.rungs:
        lines = [line for row in rows for line in (row.get(f"caption.{name}_problems") or "").split("\n") if line]
        counts[name] = dict(Counter(line.partition(":")[0] for line in lines))
    return counts
