"""Scan a folder of clips: every file is opened once, and unusable files are rejected with a reason."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.dataset.cache_keys import hash_values, window_id
from cogvideox.dataset.ingest.entries import IMAGES, FolderEntry, is_file
from cogvideox.dataset.ingest.folder_layouts import list_folder
from cogvideox.errors import UserError
from cogvideox.executor.base import Backend
from cogvideox.executor.job_array import Shard
from cogvideox.executor.run import run
from cogvideox.records import Clip
from cogvideox.video.limits import FileVersion, file_version

NO_CAPTION = "it has no caption"
"""Reason for which a clip without a caption is rejected."""

BATCH_SIZE = 16  # number of files per batch

OnProgress = Callable[[int, int], None]
"""Called with the number of files done and the total."""


@dataclass(frozen=True)
class ScannedFolder:
    """The usable clips and the rejected entries of a folder.

    Attributes:
        layout: human-readable description of the folder layout.
        rejects: (file or row, reason) for unusable entries.
        notes: human-readable notes on ignored files.
        content_hash: hash of all entries of the folder, the same in every job of a job array.
    """

    layout: str
    clips: list[Clip]
    rejects: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)
    content_hash: str = ""


def scan_folder(
    path: str | Path,
    *,
    captions: bool = True,
    shard: Shard | None = None,
    workers: int = 0,
    backend: Backend = "local",
    on_progress: OnProgress | None = None,
) -> ScannedFolder:
    """List the clips and images of a folder (`folder_layouts`) in a deterministic order.

    Every file is opened, decoded up to its first frame, and hashed. Files that are damaged, empty, without a caption or
    of a different type than their suffix are rejected. No file content stops the scan.

    Args:
        captions: reject files without a caption. Training on pixels alone needs no captions.
        shard: scan only the entries of this job.
        workers: number of worker processes; 0 scans in this process.

    Raises:
        UserError: no such folder, unknown layout, or lists of different lengths.
    """
    contents = list_folder(path)
    shard = shard or Shard()
    entries = list(shard.of(contents.entries))
    batches = [entries[start : start + BATCH_SIZE] for start in range(0, len(entries), BATCH_SIZE)]
    results: list[Clip | str] = []
    for result in run(ProbeFiles(captions), batches, workers=workers, backend=backend):
        results.extend(result)
        if on_progress is not None:
            on_progress(len(results), len(entries))
    clips = [result for result in results if isinstance(result, Clip)]
    rejects = contents.rejects if shard.rank == 0 else []
    unusable = [(str(entry.source), reason) for entry, reason in zip(entries, results) if isinstance(reason, str)]
    values = [(entry.source.name, entry.caption, entry.start, entry.end) for entry in contents.entries]
    return ScannedFolder(contents.layout, clips, [*rejects, *unusable], contents.notes, hash_values(values))


@dataclass(frozen=True)
class ProbeFiles:
    """Batch task that opens files: maps each entry to a clip, or to the reason why it is unusable."""

    captions: bool = True

    def open(self, worker: int) -> Callable[[Sequence[FolderEntry]], list[Clip | str]]:
        """See `executor.base.BatchTask`."""
        return lambda batch: [self.probe(entry) for entry in batch]

    def probe(self, entry: FolderEntry) -> Clip | str:
        """Return the clip of an entry, or the reason why it is unusable."""
        try:
            return self._clip(entry)
        except MemoryError:
            raise
        except UserError as error:
            return str(error).removeprefix(f"cannot read {entry.source}: ")
        except Exception as error:  # file contents must not stop the scan
            return f"it cannot be read ({type(error).__name__}: {error})"

    def _clip(self, entry: FolderEntry) -> Clip:
        from cogvideox.video import io  # importing PyAV is slow

        if is_file(entry.source) and entry.source.stat().st_size == 0:
            raise UserError("it is empty")
        if self.captions and entry.caption_problem is not None:
            raise UserError(entry.caption_problem)
        if self.captions and entry.caption is None:
            raise UserError(NO_CAPTION)
        if self.captions and not entry.caption and entry.source.suffix.lower() not in IMAGES:
            raise UserError("its caption is empty")
        info = io.probe(entry.source)
        is_image = info.num_frames == 1
        start, end = entry.start, entry.end
        if is_image:
            start = end = None
        elif not 0 <= (start or 0.0) < min(info.seconds, end if end is not None else info.seconds):
            until = "its end" if end is None else f"{end:g} s"
            raise UserError(f"it is {info.seconds:g} s long, so the part from {start or 0:g} s to {until} is empty")
        else:  # otherwise every window would be read before it is rejected
            io.check_gaps(entry.source, start or 0.0, info.seconds if end is None else end)
        seconds = min(info.seconds, info.seconds if end is None else end) - (start or 0.0)
        return Clip(
            id=window_id(_file_hash(entry.source, file_version(entry.source)), start, end),
            source=entry.source,
            start=start,
            end=end,
            fps=0.0 if is_image else info.fps,
            width=info.width,
            height=info.height,
            num_frames=1 if is_image else max(1, round(seconds * info.fps)),
            caption=entry.caption or "",
            scores=dict(entry.scores),
        )


@lru_cache(maxsize=8)  # a table may have many rows of the same file
def _file_hash(path: Path, version: FileVersion) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:24]
    except OSError as error:
        raise cannot_read(path, error) from error
