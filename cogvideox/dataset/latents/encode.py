"""Encode clips and captions into a latent store, so that training needs neither the VAE nor T5.

    captions     -> T5  -> text shards  --+
    windows      -> VAE -> latent shards -+-> index.parquet
    first frames -> VAE -> image shards --+      (for image-to-video models)

Tensors already in the store are not encoded again: an interruption loses only the unfinished shards, a second run
encodes only new clips, and for a changed caption only the text is encoded again.
"""

import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cogvideox import config
from cogvideox.atomic_io import remove_stale_files
from cogvideox.dataset.cache_keys import hash_values
from cogvideox.dataset.latents.encode_memory import measure_budget
from cogvideox.dataset.latents.encode_plan import EncodePlan, PlannedWindow, duplicate_of
from cogvideox.dataset.latents.encode_workers import EncodeCaptions, EncodeDevice, EncodeWindows
from cogvideox.dataset.latents.latent_store import (
    INDEX,
    IndexRow,
    TensorLocation,
    find_tensors,
    read_index,
    write_index,
)
from cogvideox.executor.base import Backend, BatchTask
from cogvideox.executor.job_array import Shard
from cogvideox.executor.run import run
from cogvideox.geometry import video_frames
from cogvideox.records import Clip
from cogvideox.untrusted.text_encoding import check_utf8_path

MAX_SHARD_ITEMS, MAX_SHARD_BYTES = 32, 256 * 2**20  # an interruption loses at most one shard per process
IDLE = 600.0  # seconds without a write after which a temporary file is considered stale

T = TypeVar("T")


@dataclass(frozen=True)
class EncodeResult:
    """The result of an encoding run.

    Attributes:
        num_new_latents, num_new_texts, num_new_first_frames: number of tensors encoded by this run.
        num_clips, rejects: of the index if `complete`, otherwise of this job.
        failures: (file, reason) for the planned clips that could not be encoded; also in `rejects`.
        complete: whether the index was written; in a job array, the last job writes it.
    """

    num_new_latents: int
    num_new_texts: int
    num_clips: int
    rejects: list[tuple[str, str]]
    complete: bool
    num_new_first_frames: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def encode_clips(
    plan: EncodePlan,
    folder: str | Path,
    *,
    device: EncodeDevice | None = None,
    shard: Shard | None = None,
    workers: int = 0,
    backend: Backend = "local",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> EncodeResult:
    """Encode the planned clips that are not yet in the store at `folder`.

    The index then lists exactly these clips. Tensors of other clips stay in the shards and can be reused later.

    Args:
        plan: the plan for this job's part of the folder (`scan_folder` with the same `shard`).
        device: device, dtype and threads of the networks; defaults to the CPU in float32.
        shard: this job of a job array; the job that finishes last writes the index.
        workers: number of processes, each with its own copy of the networks; 0 encodes in this process.
        on_progress: called with the stage ("captions", "clips" or "first frames"), the number done, and the total.

    Raises:
        UserError: the store cannot be read or written; no window fits in memory.
    """
    folder, shard, device = Path(folder), shard or Shard(), device or EncodeDevice()
    check_utf8_path(folder)
    norm_statistics, budget = plan.settings.norm_statistics, measure_budget(device.device, device.dtype, workers)
    if plan.windows:
        smallest = min((window.size for window in plan.windows), key=math.prod)
        budget.choose_slicing(plan.spec.vae, smallest, norm_statistics)
    remove_stale_files(folder, idle=IDLE)
    stored = find_tensors(folder)
    errors: dict[str, str | None] = {}

    def encode_missing(stage: str, task: BatchTask, items: Mapping[str, tuple[Any, int]]) -> int:
        """Encode the items that are not stored yet, given with their size on disk, and return their number."""
        missing = {key: item for key, item in items.items() if key not in stored}
        if not missing:  # do not load the network
            return 0
        batch_size = _items_per_shard(max(num_bytes for _, num_bytes in missing.values()))
        pairs = [(key, item) for key, (item, _) in missing.items()]
        results = run(task, _batches(pairs, batch_size, workers), workers=workers, backend=backend)
        num_new = 0
        for num_done, result in enumerate(chain.from_iterable(results), start=1):
            if result.location is None:
                errors[result.key] = result.error
            else:
                stored[result.key] = result.location
                num_new += 1
            if on_progress is not None:
                on_progress(stage, num_done, len(pairs))
        return num_new

    task = EncodeCaptions(plan.spec.name, folder, device)
    captions = {key: (caption, plan.text_bytes) for key, caption in plan.captions.items()}
    num_texts = encode_missing("captions", task, captions)

    task = EncodeWindows(plan.spec.name, folder, device, budget, norm_statistics)
    windows = {p.latents_key: (p.window, p.latents_bytes) for p in plan.planned if p.text_key in stored}
    num_latents = encode_missing("clips", task, windows)

    task = EncodeWindows(plan.spec.name, folder, device, budget, first_frames=plan.settings.target.first_frames)
    images = {
        p.first_frames_key: (p.window, p.first_frames_bytes)
        for p in plan.planned
        if p.first_frames_key is not None and p.text_key in stored and p.latents_key in stored
    }
    num_first_frames = encode_missing("first frames", task, images)

    rows = [_row(planned, stored, errors) for planned in plan.planned]
    failures = [(row.source, row.error) for row in rows if row.error is not None]
    rows += [_error_row(clip, reason) for clip, reason in plan.unusable_clips]
    rows += [IndexRow(source, reason) for source, reason in plan.scan_rejects]
    rows, complete = _write_index(folder, plan, rows, shard)
    rejects = [(row.source, row.error) for row in rows if row.error is not None]
    return EncodeResult(num_latents, num_texts, len(rows) - len(rejects), rejects, complete, num_first_frames, failures)


def _items_per_shard(num_bytes: int) -> int:
    return max(1, min(MAX_SHARD_ITEMS, MAX_SHARD_BYTES // num_bytes))


def _batches(items: Sequence[T], size: int, workers: int) -> list[Sequence[T]]:
    """Split items into batches of at most `size`, one per shard, with at least one batch per worker."""
    size = max(1, min(size, math.ceil(len(items) / max(workers, 1))))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _row(planned: PlannedWindow, stored: Mapping[str, TensorLocation], errors: Mapping[str, str | None]) -> IndexRow:
    window, clip = planned.window, planned.window.clip
    text, latents, images = planned.text_key, planned.latents_key, planned.first_frames_key
    for key in (text, latents, images):
        if key is not None and key not in stored:
            return _error_row(clip, errors[key])
    return IndexRow(
        source=str(clip.source),
        clip_id=clip.id,
        caption=clip.caption,
        start=clip.start,
        end=clip.end,
        fps=window.fps,
        num_frames=video_frames(stored[latents].shape[1]),  # a file may have fewer frames than its header says
        height=window.height,
        width=window.width,
        source_fps=clip.fps,
        source_height=clip.height,
        source_width=clip.width,
        crop=window.crop,
        latents=latents,
        latents_file=stored[latents].file,
        text=text,
        text_file=stored[text].file,
        images=images or "",
        images_file=stored[images].file if images else "",
        scores=clip.scores,
    )


def _error_row(clip: Clip, reason: str | None) -> IndexRow:
    return IndexRow(str(clip.source), reason, clip.id, clip.caption, clip.start, clip.end)


def _write_index(folder: Path, plan: EncodePlan, rows: list[IndexRow], shard: Shard) -> tuple[list[IndexRow], bool]:
    """Write the index if all jobs of the job array are done.

    Returns:
        The rows of the index and True, or the rows of this job and False.
    """
    if shard.world > 1:
        settings = config.to_dict(plan.settings) | {"model": None}
        parts_folder = folder / f"parts-{hash_values(settings, plan.content_hash)}"
        write_index(shard.file(parts_folder, ".parquet"), plan.settings, rows)
        if shard.all_done(parts_folder, ".parquet") is None:
            return rows, False
        claimed = parts_folder.with_name(f".{parts_folder.name}-{secrets.token_hex(4)}")
        try:
            parts_folder.rename(claimed)  # if two jobs finish at the same time, only one succeeds
        except FileNotFoundError:
            return rows, False
        parts = shard.all_done(claimed, ".parquet") or []
        rows = [row for part in parts for row in read_index(part)[1]]
        shutil.rmtree(claimed)
    rows = _reject_duplicates(sorted(rows, key=IndexRow.sort_key))
    write_index(folder / INDEX, plan.settings, rows)
    return rows, True


def _reject_duplicates(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Replace rows with the content and caption of an earlier row by rejects."""
    first_sources: dict[tuple[str | None, str | None], str] = {}
    checked = []
    for row in rows:
        if row.error is None:
            source = first_sources.setdefault((row.clip_id, row.caption), row.source)
            if source != row.source:
                row = IndexRow(row.source, duplicate_of(source))
        checked.append(row)
    return checked
