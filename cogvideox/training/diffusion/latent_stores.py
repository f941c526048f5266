"""Open the latent stores of a diffusion run. Folders of videos are first encoded into stores."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from cogvideox.dataset.config import ToyboxSource
from cogvideox.dataset.ingest.report import format_failures, format_rejects, format_summary
from cogvideox.dataset.latents.encode import encode_clips
from cogvideox.dataset.latents.encode_plan import EncodePlan
from cogvideox.dataset.latents.encode_workers import EncodeDevice
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.dataset.latents.toybox_store import ToyboxStore
from cogvideox.dataset.stale_latents import check_latents
from cogvideox.errors import UserError
from cogvideox.geometry import NormStatistics, encode_chunks
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.progress import ProgressLines
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.data_checks import check_data, plan_folders
from cogvideox.training.diffusion.toybox_stores import ToyboxEncoder
from cogvideox.training.metrics.tracker import print_above_heartbeat
from cogvideox.training.run import TrainingRun


@dataclass(frozen=True)
class TrainingStores:
    """Latent stores that were encoded with the VAE and text encoder of the model.

    Attributes:
        data: the training data, keyed by the path in the settings or, for rendered clips, by their name; the keys
            determine the order of samples.
        scaling_factor: multiplier of the latents.
        image_scaling_factor: multiplier of the latents of conditioning images.
        null_text: the unconditional prompt embedding.
    """

    data: dict[str, LatentStore | ToyboxStore]
    validation: LatentStore | ToyboxStore | None
    scaling_factor: float
    image_scaling_factor: float
    null_text: Float[Tensor, "n d"]


def open_stores(
    settings: DiffusionTraining, spec: ModelSpec, run: TrainingRun, is_image_to_video: bool = False
) -> TrainingStores:
    """Open the stores. Rank 0 first encodes folders of videos, images and captions into `out/stores/`.

    Args:
        is_image_to_video: whether the model is image-to-video and needs the encoded first frames of clips.

    Raises:
        UserError: no data, or a folder without usable clips; a store was encoded with a different model
            (`check_latents`).
        TrainingStopped: the run has to stop while clips are encoded.
    """
    if not settings.data and not settings.toybox:
        raise UserError("no training data: pass a latent store or a folder of captioned videos with --data")
    if is_image_to_video and settings.uses_toybox:
        raise UserError(
            f"toybox clips have no encoded first frames, which the image-to-video model {spec.name} needs: remove "
            "toybox and toybox_validation, or choose a text-to-video model"
        )

    def encode_missing() -> list[str]:
        folders = plan_folders(settings, spec)
        for folder, plan in folders.values():
            print(format_summary(folder, plan.clips, plan.windows, plan.settings.target), file=sys.stderr)
            if plan.rejects:
                print(format_rejects(plan.rejects), file=sys.stderr)
        check_data(settings, spec, {path: plan for path, (_, plan) in folders.items()})
        paths = [source.store for source in settings.data] + ([settings.validation] if settings.validation else [])
        return [str(_encode(Path(path), folders[path][1], spec, run)) if path in folders else path for path in paths]

    stores = [LatentStore(path) for path in run.on_rank_zero(encode_missing)]
    for store in stores:
        check_latents(store, spec, needs_first_frames=is_image_to_video)
        _compare_norm_statistics(store, settings.norm_statistics, run)
        if len(store) == 0:
            raise UserError(f"{store.folder} has no clips to train on")
    data: dict[str, LatentStore | ToyboxStore] = {source.store: store for source, store in zip(settings.data, stores)}
    validation = stores[-1] if settings.validation else None
    assert settings.null_text is not None  # the config is resolved
    null_text = stores[0].null_text(settings.null_text).float() if stores else None
    if settings.uses_toybox:
        encoder = ToyboxEncoder(settings, spec, run)
        data |= {str(source): encoder.open(source) for source in settings.toybox}
        if settings.toybox_validation is not None:
            validation = encoder.open(ToyboxSource(settings.toybox_validation, caption_styles=("plain",)))
        null_text = encoder.null_text(settings.null_text) if null_text is None else null_text
    assert null_text is not None
    return TrainingStores(
        data=data,
        validation=validation,
        scaling_factor=spec.vae.scaling_factor,
        image_scaling_factor=spec.vae.image_scaling_factor,
        null_text=null_text,
    )


def _compare_norm_statistics(store: LatentStore, expected: NormStatistics | None, run: TrainingRun) -> None:
    """Print a note if a store with clips of several chunks was encoded with a different `norm_statistics` setting."""
    actual, longest = store.settings.norm_statistics, max((row.num_frames for row in store.rows), default=1)
    if actual != expected and len(encode_chunks(longest)) > 1 and run.is_main:
        print(
            f"note: {store.folder} was encoded with norm_statistics={actual}, but the setting of this run is "
            f"{expected}",
            file=sys.stderr,
        )


def _encode(path: Path, plan: EncodePlan, spec: ModelSpec, run: TrainingRun) -> Path:
    """Encode the clips of the folder `path` into a new latent store, and return its path."""
    store = run.out / "stores" / f"{path.resolve().name}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"

    lines = ProgressLines(print_above_heartbeat)

    def on_progress(items: str, done: int, total: int) -> None:
        lines(f"{path}: encoding {items}", done, total)
        run.preemption.check()

    dtype = "float32" if run.device.type == "cpu" else spec.settings.dtype
    encoded = encode_clips(plan, store, device=EncodeDevice(str(run.device), dtype), on_progress=on_progress)
    if encoded.failures:
        print(format_failures(encoded.failures, len(plan.planned)), file=sys.stderr)
    if encoded.num_clips == 0:
        raise UserError(f"{path} has no clips to train on")
    return store
