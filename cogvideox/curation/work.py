"""The remaining work of a run, in depth-first order, and its progress."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.curation.assemble import FileRow, clips_of
from cogvideox.curation.files import RawFile
from cogvideox.curation.manifest import OK, clip_id
from cogvideox.curation.pipeline import ClipItem, Computed, FileItem
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.results import Result, ResultStore
from cogvideox.executor.base import Outcome

LOST = "the worker process died while processing it: the file crashes a library, or memory ran out"
# Images and short clips are batched. A killed run loses only the batches in progress.
_BATCH_ITEMS, _BATCH_SECONDS = 16, 2.0


@dataclass
class CurationProgress:
    """Progress of a run, passed to `on_progress` after every batch.

    Attributes:
        files, num_files: number of finished files, and of all files of this job.
        done: fraction of the work that is finished, estimated from the number and size of the files.
        clips: number of clips that this run processed.
        rows, seconds: number of rows computed and processing time, by stage.
    """

    num_files: int
    files: int = 0
    done: float = 0.0
    clips: int = 0
    started: float = field(default_factory=time.monotonic)
    rows: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the end; None until some work is finished."""
        return None if self.done <= 0.0 else self.elapsed * (1 - self.done) / self.done

    def rates(self) -> dict[str, float]:
        """Return the rows per second per process of each stage that ran."""
        return {name: self.rows[name] / self.seconds[name] for name in self.rows if self.seconds[name] > 0}


class Work:
    """Queues of files, and of the clips of files that have been split."""

    def __init__(
        self,
        files: Sequence[RawFile],
        store: ResultStore,
        output: Path,
        recipe: Recipe,
        todo: list[str],
        *,
        split: bool,
    ) -> None:
        self._files = deque(files)
        self._store, self._output, self._recipe = store, output, recipe
        self._todo, self._split = todo, split
        self._clips: deque[tuple[RawFile, ClipItem]] = deque()
        self._by_key: dict[str, RawFile] = {}
        self._probed: dict[str, Result] = {}
        # A file with a known size may be a renamed file with cached results, so it is probed before it is split.
        self._known_sizes = set(store.column("probe", "file_bytes"))
        self._sources: set[str] = set()
        self._clips_left: Counter[str] = Counter()
        self._num_clips: Counter[str] = Counter()
        self._in_clips: dict[str, RawFile] = {}
        self._num_bytes = sum(file.num_bytes for file in files) or 1
        self.progress = CurationProgress(len(files))

    def next_batch(self) -> tuple[int, Sequence[Any]] | None:
        """Return the next batch, clips first."""
        items: list[Any] = []
        seconds = 0.0
        while self._clips and len(items) < _BATCH_ITEMS and seconds < _BATCH_SECONDS:
            file, item = self._clips.popleft()
            seconds += item.row["seconds"]
            self._in_clips[item.row["id"]] = file
            items.append(item)
        if items:
            return 1, items
        while self._files and len(items) < _BATCH_ITEMS:
            file = self._files.popleft()
            if (item := self._file_item(file)) is not None:
                items.append(item)
                self._by_key[file.key] = file
            if self._clips or (items and not file.is_image):
                break
        return (0, items) if items else self.next_batch() if self._clips else None

    def handle(self, outcome: Outcome) -> None:
        """Store the results of a batch, and queue the clips of the files that it split."""
        progress = self.progress
        if outcome.lost:
            computed = Computed([result for item in outcome.batch for result in _lost(item)], {})
        else:
            computed = outcome.result
        self._store.add(computed.results)
        for result in computed.results:
            progress.rows[result.stage] += 1
            progress.seconds[result.stage] += result.seconds
        for name, seconds in computed.seconds.items():
            progress.rows[name] += len(outcome.batch)
            progress.seconds[name] += seconds
        if outcome.task == 1:
            progress.clips += len(outcome.batch)
            for item in outcome.batch:
                self._finish_clip(self._in_clips.pop(item.row["id"]))
            return
        results = {(result.stage, result.id): result for result in computed.results}
        for item in outcome.batch:
            file = self._by_key.pop(item.key)
            probed = self._probed.pop(item.key, None) or results.get(("probe", item.key))
            if probed is None or probed.error is not None:
                self._finish_file(file, 1.0)
            elif self._split and not self._store.has("split", probed.values["source_id"]):
                self._probed[file.key] = probed
                self._files.appendleft(file)
            else:
                split = results.get(("split", probed.values["source_id"]))
                self._queue(file, probed, split or self._store.get("split", probed.values["source_id"]))

    def _file_item(self, file: RawFile) -> FileItem | None:
        """Return the remaining work on a file itself; if there is none, queue its clips and return None."""
        probed = self._probed.get(file.key) or self._store.get("probe", file.key)
        if probed is None:
            return FileItem(file.key, str(file.path), None, self._split and file.num_bytes not in self._known_sizes)
        if probed.error is None and self._split:
            if not self._store.has("split", probed.values["source_id"]):
                self._probed[file.key] = probed
                return FileItem(file.key, str(file.path), dict(probed.values), True)
            self._queue(file, probed, self._store.get("split", probed.values["source_id"]))
        else:
            self._finish_file(file, 1.0)
        return None

    def _queue(self, file: RawFile, probed: Result | None, split: Result | None) -> None:
        """Queue the clips of a file that lack results."""
        if split is None or split.error is not None or split.id in self._sources:
            self._finish_file(file, 1.0)
            return
        self._sources.add(split.id)
        if self._is_complete(split):
            self._finish_file(file, 1.0)
            return
        number = 0
        for clip in clips_of(file, probed, split, None, self._output):
            if clip.status == OK and (missing := self._missing(clip)):
                self._clips.append((file, ClipItem(dict(clip.row), missing)))
                number += 1
        if number:
            self._num_clips[file.key] = self._clips_left[file.key] = number
            self.progress.done += 0.5 * self._fraction(file)
        else:
            self._finish_file(file, 1.0)

    def _is_complete(self, split: Result) -> bool:
        """Return whether all clips of a file have all results. Reads only the columns of `split`, which is fast."""
        if self._recipe.cut.mode == "encode":  # files may have been removed
            return False
        clips = [clip for clip in split.values["clips"] if not clip.get("reason")]
        ids = [clip_id(split.id, clip["start"], clip["end"]) for clip in clips]
        return all(self._store.has(name, id) for name in self._todo for id in ids)

    def _missing(self, clip: FileRow) -> tuple[str, ...]:
        """Return the stages and signals without a result for a clip."""
        id = clip.row["id"]
        missing = [name for name in self._todo if not self._store.has(name, id)]
        cut = self._recipe.cut
        if cut.mode == "encode" and cut.name in self._todo and cut.name not in missing:
            result = self._store.get(cut.name, id)
            file = None if result is None else result.values.get("clip_file")
            if file is not None and not (self._output / file).is_file():  # it was removed
                missing.insert(0, cut.name)
        return tuple(missing)

    def _finish_clip(self, file: RawFile) -> None:
        self._clips_left[file.key] -= 1
        self.progress.done += 0.5 * self._fraction(file) / self._num_clips[file.key]
        if not self._clips_left[file.key]:
            del self._clips_left[file.key], self._num_clips[file.key]
            self._finish_file(file, 0.0)

    def _fraction(self, file: RawFile) -> float:
        """Return the estimated fraction of the work: the mean of the fractions of bytes and of files."""
        return (file.num_bytes / self._num_bytes + 1 / self.progress.num_files) / 2

    def _finish_file(self, file: RawFile, remaining: float) -> None:
        self.progress.files += 1
        self.progress.done += remaining * self._fraction(file)


def _lost(item: FileItem | ClipItem) -> Iterator[Result]:
    """Yield failures for an item whose worker died."""
    if isinstance(item, ClipItem):
        yield from (Result(name, item.row["id"], error=LOST, attempts=2) for name in item.todo)
    elif item.probed is not None:
        yield Result("split", item.probed["source_id"], error=LOST, attempts=2)
    else:
        yield Result("probe", item.key, error=LOST, attempts=2)
