"""Checks of the training data that need no encoded clips, so that mistakes are reported before hours of encoding."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cogvideox.dataset.ingest.scan import ScannedFolder, scan_folder
from cogvideox.dataset.latents.encode_plan import EncodePlan, plan_encoding
from cogvideox.dataset.latents.latent_store import INDEX, LatentStore, score_columns
from cogvideox.dataset.mixture import Mixture
from cogvideox.dataset.packed_loader import clip_table
from cogvideox.errors import UserError
from cogvideox.generation.request.builder import complete_request
from cogvideox.generation.request.input_sources import InputSource
from cogvideox.generation.request.inputs import Inputs
from cogvideox.geometry import latent_shape
from cogvideox.parallel.environment import world_size
from cogvideox.pretrained.model_folder import load_tokenizer
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
            are none; the policy has an unknown column, or keeps no clips at some step; the batch size is not divisible
            among the processes; samples cannot be generated. The message names the setting to change.
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
    check_samples(settings, replace(spec, transformer=config))
    if settings.toybox or not settings.data:
        return
    is_image = [window.num_frames == 1 for plan in training.values() for window in plan.windows]
    if settings.image_fraction is not None and len(training) == len(settings.data):
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
    tables = {}
    for source in settings.data:
        if source.store in training:
            columns, shapes = _columns_and_shapes(training[source.store], spec)
        else:
            store = LatentStore(source.store)
            columns, shapes = store.columns, store.shapes
        tables[source.store] = clip_table(source.store, columns, shapes, config, spec.settings.text_length)
    Mixture(tables, settings.mixture(), settings.run.seed).check_policy(settings.run.num_steps)


def check_samples(settings: DiffusionTraining, spec: ModelSpec) -> None:
    """Check the prompts and sizes of sample videos, which are generated only after many steps.

    Args:
        spec: the base model with the transformer that is trained.

    Raises:
        UserError: a prompt is too long for the model, or the model does not support the size.
    """
    samples = settings.samples
    if not samples.prompts:
        return
    tokenizer = load_tokenizer(spec)
    names = ("num_inference_steps", "num_frames", "height", "width")
    options = {name: value for name in names if (value := getattr(samples, name)) is not None}
    inputs = Inputs(image_source=InputSource(None, "")) if spec.transformer.is_image_to_video else None
    for prompt in samples.prompts:
        try:
            tokenizer.encode(prompt, spec.settings.text_length)
            complete_request(spec, prompt, inputs=inputs, position_rule=settings.position_rule, **options)
        except UserError as error:
            raise UserError(f"samples of {prompt!r}: {error}") from error


def _columns_and_shapes(plan: EncodePlan, spec: ModelSpec) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns and latent shapes that the store of a plan will have (`LatentStore`)."""
    windows, ratio = plan.windows, spec.vae.spatial_compression_ratio
    columns = {
        "num_frames": np.array([window.num_frames for window in windows]),
        "height": np.array([window.height for window in windows]),
        "width": np.array([window.width for window in windows]),
        "fps": np.array([window.fps for window in windows]),
        "source_fps": np.array([window.clip.fps for window in windows]),
    }
    columns |= score_columns([window.clip.scores for window in windows])
    shapes = [latent_shape(*window.size, ratio=ratio) for window in windows]
    return columns, np.array(shapes, dtype=int).reshape(-1, 3)
