"""What a stage learns from: stores of latents and features, or folders of videos, which are encoded into stores."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.ingest.report import format_rejects, format_summary
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.dataset.latents.encode import encode_clips
from cogvideox.dataset.latents.encode_plan import plan_encoding, store_settings
from cogvideox.dataset.latents.encode_workers import EncodeDevice
from cogvideox.dataset.latents.latent_store import INDEX, LatentStore
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.run import Run


@dataclass(frozen=True)
class Stores:
    """The stores of a stage, which agree on the networks that made them.

    data: by the path that the settings have, whether it is a store or a folder: the order of samples follows from it.
    scaling_factor: what latents are multiplied by. image_scaling_factor: those of images that clips begin with.
    null_text: what stands for no caption.
    """

    data: dict[str, LatentStore]
    validation: LatentStore | None
    scaling_factor: float
    image_scaling_factor: float
    null_text: Float[Tensor, "n d"]


def open_stores(settings: DiffusionTraining, spec: ModelSpec, run: Run, takes_image: bool = False) -> Stores:
    """Opens the stores; folders of videos, images and captions are first encoded into `out/stores/`, by one rank.

    Args:
        takes_image: clips are needed with their first frames.

    Raises:
        UserError: no data; nothing to train on in a folder; a store that other networks made than the model's, or
            without the first frames that are needed.
        Stopped: there was a reason to, while something was encoded.
    """
    if not settings.data:
        raise UserError("there is nothing to train on: --data names a store, or a folder of videos and captions")
    target = settings.target.with_first_frames() if takes_image else settings.target

    def ready() -> list[str]:
        paths = [source.store for source in settings.data] + ([settings.validation] if settings.validation else [])
        for path in paths:  # of all, before the first is encoded
            if not Path(path).exists():
                raise UserError(f"there is nothing at {path}: --data names a store, or a folder of videos and captions")
        return [str(_store(Path(path), target, spec, run)) for path in paths]

    stores = [LatentStore(place) for place in run.on_rank_zero(ready)]
    for store in stores:
        ours = store_settings(spec, store.settings.target)
        if (store.settings.vae, store.settings.text_encoder) != (ours.vae, ours.text_encoder):
            raise UserError(
                f"the VAE or the text encoder that made {store.folder}, of {store.settings.model}, has other weights "
                f"than that of {settings.model}: encode the clips anew, or train the model that they are of"
            )
        if takes_image and not store.settings.target.first_frames:
            raise UserError(
                f"{store.folder} lacks the first frames that {settings.model} is to begin with: "
                "encode into it again with --first-frames 4"
            )
        if len(store) == 0:
            raise UserError(f"{store.folder} has no clips to train on")
    return Stores(
        data={source.store: store for source, store in zip(settings.data, stores)},
        validation=stores[-1] if settings.validation else None,
        scaling_factor=spec.vae.scaling_factor,
        image_scaling_factor=spec.vae.image_scaling_factor,
        null_text=stores[0].null_text().float(),
    )


def _store(path: Path, target: ClipFormat, spec: ModelSpec, run: Run) -> Path:
    """The store at a path, or the one that the folder there is encoded into."""
    if (path / INDEX).is_file():
        return path
    place = run.out / "stores" / f"{path.resolve().name}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"
    folder = scan_folder(path)
    plan = plan_encoding(folder, spec, target)
    print(format_summary(folder, plan.windows, target), file=sys.stderr)

    def on_progress(what: str, done: int, total: int) -> None:
        if done == total or done % 100 == 0:
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
        run.preemption.check()

    dtype = "float32" if run.device.type == "cpu" else spec.settings.dtype
    encoded = encode_clips(plan, place, device=EncodeDevice(str(run.device), dtype), on_progress=on_progress)
    if encoded.rejects:
        print(format_rejects(encoded.rejects), file=sys.stderr)
    if encoded.num_clips == 0:
        raise UserError(f"{path} has no clips to train on")
    return place
