"""Checks of the training data that need no encoded clips, so that mistakes are reported before hours of encoding."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cogvideox.dataset.ingest.scan import ScannedFolder, scan_folder
from cogvideox.dataset.latents.encode_plan import EncodePlan, plan_encoding
from cogvideox.dataset.latents.latent_store import INDEX
from cogvideox.errors import UserError
from cogvideox.geometry import latent_shape
from cogvideox.parallel.mesh import world_size
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.training.diffusion.config import DiffusionTraining


def plan_folders(settings: DiffusionTraining, spec: ModelSpec) -> dict[str, tuple[ScannedFolder, EncodePlan]]:
    """Scan the folders of clips that are not encoded yet, training data and validation, and plan their encoding.

    Raises:
        UserError: a folder does not exist or cannot be read, or the clip format does not fit the model.
    """
    paths = [source.store for source in settings.data] + ([settings.validation] if settings.validation else [])
    for path in paths:
        if not Path(path).exists():
            raise UserError(
                f"{path} does not exist: pass a latent store, or a folder of videos and captions, with --data"
            )
    target = settings.target
    if spec.transformer.is_image_to_video or settings.add_image:
        target = target.with_first_frames()
    folders = {}
    for path in dict.fromkeys(paths):
        if not (Path(path) / INDEX).is_file():
            folder = scan_folder(Path(path))
            folders[path] = folder, plan_encoding(folder, spec, target, settings.norm_statistics)
    return folders


def check_data(settings: DiffusionTraining, spec: ModelSpec, plans: Mapping[str, EncodePlan]) -> None:
    """Check that the settings suit the planned clips.

    Args:
        plans: the encoding plan of each folder of `settings` that is not encoded yet.

    Raises:
        UserError: a folder has no usable clips; a clip is longer than a row; images or videos are required, and there
            are none; the batch size is not divisible among the processes. The message names the setting to change.
    """
    ranks = world_size() // settings.sequence
    if ranks > 1 and (rows := settings.run.batch_size) % ranks:
        nearest = max(1, round(rows / ranks)) * ranks
        raise UserError(f"run.batch_size={rows} must be a multiple of {ranks} processes; the nearest is {nearest}")
    for path, plan in plans.items():
        if not plan.windows:
            reason = f" ({plan.rejects[0][0]}: {plan.rejects[0][1]})" if plan.rejects else ""
            raise UserError(f"{path} has no clips to train on{reason}; `cogvideox encode {path} --dry-run` lists why")
    config = settings.transformer or spec.transformer
    if settings.add_image and not config.is_image_to_video:
        config = replace(config, in_channels=2 * config.out_channels)
    training = {source.store: plans[source.store] for source in settings.data if source.store in plans}
    for path, plan in training.items():
        longest = max(
            BatchShape(
                1,
                *latent_shape(
                    window.num_frames,
                    window.height,
                    window.width,
                    patch_t=config.patch[0],
                    ratio=spec.vae.spatial_compression_ratio,
                ),
                spec.settings.text_length,
            ).tokens(config)
            for window in plan.windows
        )
        if longest > settings.row_tokens:
            raise UserError(
                f"row_tokens={settings.row_tokens} is too small for a clip of {longest} tokens in {path}: set "
                f"row_tokens={longest}, or reduce target.num_frames, target.height and target.width"
            )
    if settings.image_fraction is None or settings.toybox or not training or len(training) < len(settings.data):
        return
    is_image = [window.clip.is_image or window.num_frames == 1 for plan in training.values() for window in plan.windows]
    if settings.image_fraction > 0 and not any(is_image):
        raise UserError(
            f"image_fraction={settings.image_fraction} needs images, and the data has only videos: set "
            "image_fraction=none, or add images"
        )
    if settings.image_fraction < 1 and all(is_image):
        raise UserError(
            f"image_fraction={settings.image_fraction} needs videos, and the data has only images: set "
            "image_fraction=none, or add videos"
        )
