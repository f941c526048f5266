"""A user's data: recognised however it is laid out, every file opened once, what is unusable told with the reason."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.dataset.ingest.folder_layouts import IMAGES, Entry, entries
from cogvideox.dataset.latents.cache_keys import identity, key
from cogvideox.errors import UserError
from cogvideox.executor.base import Backend, run
from cogvideox.executor.job_array import Shard
from cogvideox.records import Clip

BATCH = 16  # files that a worker opens before it answers

OnProgress = Callable[[int, int], None]
"""Called now and then with how many are done, and how many there are in all."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    layout: how it is laid out, in words.
    rejects: what cannot be used, as (file or row, reason).
    notes: what was passed over.
    whole: a hash of all that is listed there, the same for every job that has a part of it.
    """

    layout: str
    clips: list[Clip]
    rejects: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)
    whole: str = ""


def recognise(
    path: str | Path,
    *,
    captions: bool = True,
    shard: Shard | None = None,
    workers: int = 0,
    place: Backend = "local",
    on_progress: OnProgress | None = None,
) -> Listing:
    """Lists the clips and images of a folder (`layouts`), in an order that is always the same.

    Every file is opened, decoded as far as its first frame and hashed. One that is damaged, empty, without a caption or
    something else than it seems becomes a reject; nothing that a file holds stops this.

    Args:
        captions: whether a missing or empty caption is a reason; for what is trained on pixels alone it is none.
        shard: only the entries of this job.

    Raises:
        UserError: no such folder, nothing in it that is recognised, lists of different lengths.
    """
    found = entries(path)
    shard = shard or Shard()
    rejects = found.rejects if shard.rank == 0 else []
    mine = list(shard.of(found.entries))
    batches = [mine[start : start + BATCH] for start in range(0, len(mine), BATCH)]
    answers: list[Clip | str] = []
    for answer in run(Look(captions), batches, workers=workers, backend=place):
        answers.extend(answer)
        if on_progress is not None:
            on_progress(len(answers), len(mine))
    clips = [answer for answer in answers if isinstance(answer, Clip)]
    refused = [(str(entry.source), answer) for entry, answer in zip(mine, answers) if isinstance(answer, str)]
    whole = key([(entry.source.name, entry.caption, entry.start, entry.end) for entry in found.entries])
    return Listing(found.layout, clips, [*rejects, *refused], found.notes, whole)


@dataclass(frozen=True)
class Look:
    """The stage that opens files: entries in; for each the clip, or the reason why there is none, out."""

    captions: bool = True

    def open(self, worker: int) -> Callable[[Sequence[Entry]], list[Clip | str]]:
        """See `executor.base.Stage`."""
        return lambda batch: [self.look(entry) for entry in batch]

    def look(self, entry: Entry) -> Clip | str:
        """One entry as a clip, or why it is none."""
        try:
            return self._clip(entry)
        except MemoryError:
            raise
        except UserError as error:
            return str(error).removeprefix(f"cannot read {entry.source}: ")
        except Exception as error:  # whatever a file holds, it must not stop the others
            return f"it cannot be read ({type(error).__name__}: {error})"

    def _clip(self, entry: Entry) -> Clip:
        from cogvideox.video import io  # PyAV takes a moment to import

        if not entry.source.is_file():
            raise UserError("there is no such file")
        if entry.source.stat().st_size == 0:
            raise UserError("it is empty")
        if self.captions and entry.caption is None:
            raise UserError("it has no caption")
        if self.captions and not entry.caption and entry.source.suffix.lower() not in IMAGES:
            raise UserError("its caption is empty")
        info = io.probe(entry.source)
        still = entry.source.suffix.lower() in IMAGES or info.num_frames == 1
        start, end = entry.start, entry.end
        if still:
            start = end = None
        elif not 0 <= (start or 0.0) < min(info.seconds, end if end is not None else info.seconds):
            raise UserError(f"it is {info.seconds:g} s long, and from {start or 0:g} s to {end} s there is nothing")
        seconds = min(info.seconds, info.seconds if end is None else end) - (start or 0.0)
        return Clip(
            id=identity(_hash(entry.source), start, end),
            source=entry.source,
            start=start,
            end=end,
            fps=0.0 if still else info.fps,
            width=info.width,
            height=info.height,
            num_frames=1 if still else max(1, round(seconds * info.fps)),
            caption=entry.caption or "",
            scores=dict(entry.scores),
        )


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:24]
    except OSError as error:
        raise cannot_read(path, error) from error
