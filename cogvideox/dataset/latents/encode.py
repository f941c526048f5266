"""Clips and captions to latents and features, each once: what training reads afterwards without VAE and T5.

    captions     -> T5  -> text shards  --+
    views        -> VAE -> latent shards -+-> index.parquet
    first frames -> VAE -> image shards --+      (for models that begin with an image)

What a shard of the store already holds is not made again, so a stop costs the shards that were being made, a second
run makes only what is new, and a changed caption costs its text alone.
"""

import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cogvideox import config
from cogvideox.atomic_io import remove_stale_files
from cogvideox.dataset.config import StoreSettings, Target
from cogvideox.dataset.ingest.clip_windows import View, plan
from cogvideox.dataset.ingest.scan import Listing
from cogvideox.dataset.latents.cache_keys import key as digest
from cogvideox.dataset.latents.cache_keys import text_key, weights_hash
from cogvideox.dataset.latents.encode_workers import EncodeTexts, EncodeViews, Machine, unusable
from cogvideox.dataset.latents.latent_store import INDEX, Placed, Row, known, read_index, write_index
from cogvideox.errors import UserError
from cogvideox.executor.base import Backend, Task, run
from cogvideox.executor.job_array import Shard
from cogvideox.geometry import latent_shape, video_frames
from cogvideox.pretrained.model_spec import ModelSpec, read_spec, weights_file
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.text.tokenizer import Tokenizer

NUM_IN_SHARD, SHARD_BYTES = 32, 256 * 2**20  # at most: what an interruption can cost each process
IDLE = 600.0  # seconds after which a half-written file is a killed process's

T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """What a run did.

    complete: whether the index is written, which of several jobs the last one does. If so, `num_clips` and `rejects`
    are all that stand in it, and else those of this job.
    """

    num_new_latents: int
    num_new_texts: int
    num_clips: int
    rejects: list[tuple[str, str]]
    complete: bool
    num_new_images: int = 0


def encode(
    listing: Listing,
    folder: str | Path,
    model: str | Path | ModelSpec,
    target: Target,
    *,
    machine: Machine | None = None,
    shard: Shard | None = None,
    workers: int = 0,
    place: Backend = "local",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Encoded:
    """Encodes the clips of a listing into a store, as far as they are not there.

    The index then lists these clips and no others; what else is in the shards stays there, to be found again.

    Args:
        listing: of one job the part that is its own (`folder.recognise`, with the same `shard`).
        shard: which of several jobs this is; the last that is done writes the index.
        workers: processes, each with networks of its own; 0 is this one.
        on_progress: told "captions", "clips" or "first frames", how many are done and how many there are to do.

    Raises:
        UserError: no such model, a target that does not fit it, the disk refuses.
    """
    spec = model if isinstance(model, ModelSpec) else read_spec(model)
    folder, shard, machine = Path(folder), shard or Shard(), machine or Machine()
    settings = store_settings(spec, target)
    remove_stale_files(folder, idle=IDLE)
    views, rejects = plan(listing.clips, target)
    pairs = [(_keys(view, settings), view) for view in views]
    placed = known(folder, "text") | known(folder, "latents") | known(folder, "images")
    errors: dict[str, str | None] = {}

    def make(what: str, stage: Task, todo: list[tuple[str, Any]], size: int) -> int:
        """Runs a stage, notes what it made in `placed` and what it could not in `errors`, and counts the former."""
        num_made = 0
        answers = run(stage, _batches(todo, size, workers), workers=workers, backend=place)
        for num_done, made in enumerate(chain.from_iterable(answers), start=1):
            if made.placed is None:
                errors[made.key] = made.error
            else:
                placed[made.key] = made.placed
                num_made += 1
            if on_progress is not None:
                on_progress(what, num_done, len(todo))
        return num_made

    def make_of_views(what: str, which: int, stage: EncodeViews, bytes_of: Callable[[View], int]) -> int:
        """Runs a stage for the `which`-th of the keys of those views whose keys before it are there."""
        usable = {keys[which]: view for keys, view in pairs if all(key in placed for key in keys[:which])}
        missing = [(key, view) for key, view in usable.items() if key not in placed]
        return make(what, stage, missing, _per_shard(max((bytes_of(view) for _, view in missing), default=1)))

    captions = {_text_key(settings, caption): caption for caption in ("", *(v.clip.caption for v in views))}
    missing = [(key, caption) for key, caption in captions.items() if key not in placed]
    per_shard = _per_shard(2 * settings.text_length * settings.text_width)
    num_texts = make("captions", EncodeTexts(spec.name, folder, machine), missing, per_shard)

    stage = EncodeViews(spec.name, folder, machine)
    num_latents = make_of_views("clips", 1, stage, lambda view: _latent_bytes(view, settings))
    num_images = 0
    if target.first_frames:
        stage = replace(stage, first_frames=target.first_frames)
        num_images = make_of_views("first frames", 2, stage, lambda view: _image_bytes(view, settings))

    rows = [_row(keys, view, placed, errors) for keys, view in pairs]
    rows += [Row(source, error) for source, error in (*listing.rejects, *rejects)]
    rows, complete = _finish(folder, settings, rows, shard, listing.whole)
    refused = [(row.source, row.error) for row in rows if row.error is not None]
    return Encoded(num_latents, num_texts, len(rows) - len(refused), refused, complete, num_images)


def with_usable_captions(views: Sequence[View], spec: ModelSpec) -> tuple[list[View], list[tuple[str, str]]]:
    """The views whose captions the model can read, and the files of the others with the reason, before any is encoded.

    Raises:
        UserError: the model has no tokenizer that can be read.
    """
    tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
    reasons: dict[str, str] = {}
    for caption in {view.clip.caption for view in views}:
        try:
            tokenizer.encode(caption, spec.settings.text_length)
        except UserError as error:
            reasons[caption] = unusable(error)
    usable = [view for view in views if view.clip.caption not in reasons]
    captions = ((str(view.clip.source), view.clip.caption) for view in views)
    return usable, [(source, reasons[caption]) for source, caption in captions if caption in reasons]


def store_settings(spec: ModelSpec, target: Target) -> StoreSettings:
    """With what a model encodes for a target; of its weights a part is read, to hash it.

    Raises:
        UserError: the target's sizes do not divide into the model's patches; weights are missing.
    """
    if target.multiple % spec.size_multiple:
        raise UserError(
            f"sizes in multiples of {target.multiple} pixels do not fit the model: it needs {spec.size_multiple}"
        )
    vae, text = (open_weights(weights_file(spec.path / name, name)) for name in ("vae", "text_encoder"))
    encoder = [name for name in vae if name.startswith("encoder.")]  # a decoder may learn on
    return StoreSettings(
        model=spec.name,
        vae=weights_hash(vae, encoder, config.to_dict(spec.vae) | {"scaling_factor": None}),
        text_encoder=weights_hash(text, text, config.to_dict(spec.text_encoder)),
        latent_channels=spec.vae.latent_channels,
        scaling_factor=spec.vae.scaling_factor,
        ratio=spec.vae.spatial_compression_ratio,
        text_length=spec.settings.text_length,
        text_width=spec.text_encoder.d_model,
        null_text=spec.settings.null_text,
        target=target,
    )


def num_bytes(views: Sequence[View], settings: StoreSettings) -> int:
    """What a store of these takes on the disk, if nothing of it is there."""
    texts = len({view.clip.caption for view in views}) + 1
    of_views = sum(_latent_bytes(view, settings) + _image_bytes(view, settings) for view in views)
    return of_views + 2 * texts * settings.text_length * settings.text_width


def _latent_bytes(view: View, settings: StoreSettings) -> int:
    """Mean and log-variance, two bytes each."""
    shape = latent_shape(view.num_frames, view.height, view.width, ratio=settings.ratio)
    return 4 * settings.latent_channels * math.prod(shape)


def _image_bytes(view: View, settings: StoreSettings) -> int:
    return settings.target.first_frames * _latent_bytes(replace(view, num_frames=1), settings)


def _per_shard(num_bytes: int) -> int:
    return max(1, min(NUM_IN_SHARD, SHARD_BYTES // num_bytes))


def _batches(todo: Sequence[T], size: int, workers: int) -> list[Sequence[T]]:
    """Shards of at most `size`, and no so large ones that a worker would have none."""
    size = max(1, min(size, math.ceil(len(todo) / max(workers, 1))))
    return [todo[start : start + size] for start in range(0, len(todo), size)]


def _text_key(settings: StoreSettings, caption: str) -> str:
    """See `keys.text_key`."""
    return text_key(caption, settings.text_length, settings.text_encoder)


def _keys(view: View, settings: StoreSettings) -> tuple[str, ...]:
    """By what the caption, the latents and, where they are wanted, the images of a view are known."""
    keys = _text_key(settings, view.clip.caption), view.latents_key(settings.vae)
    num = settings.target.first_frames
    return (*keys, view.images_key(num, settings.vae)) if num else keys


def _row(keys: tuple[str, ...], view: View, placed: Mapping[str, Placed], errors: Mapping[str, str | None]) -> Row:
    clip, missing = view.clip, next((key for key in keys if key not in placed), None)
    if missing is not None:
        return Row(str(clip.source), errors[missing], clip.id, clip.caption, clip.start, clip.end)
    text, latents, *images = keys
    return Row(
        source=str(clip.source),
        clip_id=clip.id,
        caption=clip.caption,
        start=clip.start,
        end=clip.end,
        fps=view.fps,
        num_frames=video_frames(placed[latents].shape[1]),  # a file may have held a little less than it said
        height=view.height,
        width=view.width,
        source_fps=clip.fps,
        source_height=clip.height,
        source_width=clip.width,
        crop=view.crop,
        latents=latents,
        latents_file=placed[latents].file,
        text=text,
        text_file=placed[text].file,
        images=images[0] if images else "",
        images_file=placed[images[0]].file if images else "",
        scores=clip.scores,
    )


def _finish(folder: Path, settings: StoreSettings, rows: list[Row], shard: Shard, whole: str) -> tuple[list[Row], bool]:
    """Writes the index, if all jobs of this `whole` are done; the rows in it or, if not, those of this job."""
    if shard.world > 1:
        common = folder / f"parts-{digest(config.to_dict(settings) | {'model': None}, whole)}"
        write_index(shard.file(common, ".parquet"), settings, rows)
        if shard.all_done(common, ".parquet") is None:
            return rows, False
        taken = common.with_name(f".{common.name}-{secrets.token_hex(4)}")
        try:
            common.rename(taken)  # of two jobs that are done at once, one can
        except FileNotFoundError:
            return rows, False
        parts = shard.all_done(taken, ".parquet") or []
        rows = [row for part in parts for row in read_index(part)[1]]
        shutil.rmtree(taken)
    rows = _without_repeats(sorted(rows, key=Row.place))
    write_index(folder / INDEX, settings, rows)
    return rows, True


def _without_repeats(rows: Sequence[Row]) -> list[Row]:
    """The same pixels under the same caption count once, whatever their files are called."""
    first: dict[tuple[str | None, str | None], str] = {}
    kept = []
    for row in rows:
        if row.error is None:
            source = first.setdefault((row.clip_id, row.caption), row.source)
            if source != row.source:
                row = Row(row.source, f"it is the same clip, with the same caption, as {source}")
        kept.append(row)
    return kept
