"""Plan of an encoding run: the windows to encode, their cache keys, and unusable clips.

Reports, size estimates, contact sheets and the encoding itself all use the same plan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cogvideox import config
from cogvideox.dataset.cache_keys import first_frames_key, latents_key, text_key, weights_hash
from cogvideox.dataset.config import ClipFormat, StoreSettings
from cogvideox.dataset.ingest.clip_windows import ClipWindow, clip_windows
from cogvideox.dataset.ingest.scan import ScannedFolder
from cogvideox.errors import UserError
from cogvideox.geometry import NormStatistics, latent_shape
from cogvideox.pretrained.model_spec import ModelSpec, weights_file
from cogvideox.records import Clip
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PlannedWindow:
    """A clip window with the cache keys and sizes of its tensors.

    Attributes:
        first_frames_key: None if first frames are not encoded.
        latents_bytes, first_frames_bytes: size on disk of mean and log-variance in bfloat16.
    """

    window: ClipWindow
    text_key: str
    latents_key: str
    first_frames_key: str | None
    latents_bytes: int
    first_frames_bytes: int


@dataclass(frozen=True)
class EncodePlan:
    """The plan of an encoding run.

    Attributes:
        spec: the model whose VAE and text encoder are used.
        settings: the settings of the latent store.
        clips: the usable clips, from which the windows are cut.
        planned: the windows to encode.
        captions: all distinct captions by cache key, including the empty caption for classifier-free guidance.
        text_bytes: size on disk of a prompt embedding.
        unusable_clips: clips that cannot be encoded, with the reason.
        scan_rejects: (file or row, reason) for entries rejected by the scan.
        content_hash: see `ScannedFolder`.
    """

    spec: ModelSpec
    settings: StoreSettings
    clips: list[Clip]
    planned: list[PlannedWindow]
    captions: dict[str, str]
    text_bytes: int
    unusable_clips: list[tuple[Clip, str]]
    scan_rejects: list[tuple[str, str]]
    content_hash: str

    @property
    def windows(self) -> list[ClipWindow]:
        return [planned.window for planned in self.planned]

    @property
    def rejects(self) -> list[tuple[str, str]]:
        """(file or row, reason) for all unusable entries of the folder."""
        return [*self.scan_rejects, *((str(clip.source), reason) for clip, reason in self.unusable_clips)]

    @property
    def num_bytes(self) -> int:
        """Size on disk of the whole store, including tensors that already exist."""
        window_bytes = sum(planned.latents_bytes + planned.first_frames_bytes for planned in self.planned)
        return window_bytes + len(self.captions) * self.text_bytes


def plan_encoding(
    folder: ScannedFolder, spec: ModelSpec, target: ClipFormat, norm_statistics: NormStatistics | None = None
) -> EncodePlan:
    """Cut the clips of a folder into windows, check their captions, and compute cache keys.

    Reads samples of the model's weights to hash them.

    Args:
        norm_statistics: whether the VAE encodes in chunks or whole clips; None: as the model's training clips.

    Raises:
        UserError: the sizes do not fit the model, weights are missing, or the tokenizer is unreadable.
    """
    caption_errors = _caption_errors(folder.clips, spec)
    first_sources: dict[tuple[str, str], str] = {}
    for clip in folder.clips:
        key = clip.id, clip.caption
        first_sources[key] = min(str(clip.source), first_sources.get(key, str(clip.source)))
    windows: list[ClipWindow] = []
    clips: list[Clip] = []
    unusable: list[tuple[Clip, str]] = []
    for clip in folder.clips:
        try:
            clip_parts = clip_windows(clip, target)
        except UserError as error:
            unusable.append((clip, str(error)))
            continue
        first_source = first_sources[clip.id, clip.caption]
        if clip.caption in caption_errors:
            unusable.append((clip, caption_errors[clip.caption]))
        elif first_source != str(clip.source):
            unusable.append((clip, duplicate_of(first_source)))
        else:
            clips.append(clip)
            windows += clip_parts
    settings = store_settings(spec, target, norm_statistics)
    return EncodePlan(
        spec=spec,
        settings=settings,
        clips=clips,
        planned=[_plan_window(window, settings) for window in windows],
        captions={_caption_key(caption, settings): caption for caption in ("", *(w.clip.caption for w in windows))},
        text_bytes=2 * settings.text_length * settings.text_width,
        unusable_clips=unusable,
        scan_rejects=folder.rejects,
        content_hash=folder.content_hash,
    )


def duplicate_of(source: str) -> str:
    """Return the reason for rejecting a clip with the content and caption of another file."""
    return f"it is a duplicate of {source}, with the same caption"


def store_settings(spec: ModelSpec, target: ClipFormat, norm_statistics: NormStatistics | None = None) -> StoreSettings:
    """Return the settings of a latent store for a model. Reads samples of the weights to hash them.

    Raises:
        UserError: the target's sizes are not multiples of the model's patches, or weights are missing.
    """
    if target.multiple % spec.size_multiple:
        raise UserError(
            f"sizes in multiples of {target.multiple} pixels do not fit the model: use multiples of "
            f"{spec.size_multiple}"
        )
    vae, text_encoder = (open_weights(weights_file(spec.path / name, name)) for name in ("vae", "text_encoder"))
    encoder = [name for name in vae if name.startswith("encoder.")]  # latents do not depend on the decoder
    return StoreSettings(
        model=spec.name,
        vae=weights_hash(vae, encoder, config.to_dict(spec.vae) | {"scaling_factor": None}),
        text_encoder=weights_hash(text_encoder, text_encoder, config.to_dict(spec.text_encoder)),
        latent_channels=spec.vae.latent_channels,
        scaling_factor=spec.vae.scaling_factor,
        ratio=spec.vae.spatial_compression_ratio,
        text_length=spec.settings.text_length,
        text_width=spec.text_encoder.d_model,
        target=target,
        norm_statistics=norm_statistics or spec.settings.norm_statistics,
    )


def _plan_window(window: ClipWindow, settings: StoreSettings) -> PlannedWindow:
    copies = settings.target.first_frames

    def num_bytes(num_frames: int) -> int:
        shape = latent_shape(num_frames, window.height, window.width, ratio=settings.ratio)
        return 4 * settings.latent_channels * math.prod(shape)

    clip_id, size = window.clip.id, (window.height, window.width)
    return PlannedWindow(
        window=window,
        text_key=_caption_key(window.clip.caption, settings),
        latents_key=latents_key(clip_id, window.fps, window.size, settings.vae, settings.norm_statistics),
        first_frames_key=first_frames_key(clip_id, copies, size, settings.vae) if copies else None,
        latents_bytes=num_bytes(window.num_frames),
        first_frames_bytes=copies * num_bytes(1),
    )


def _caption_key(caption: str, settings: StoreSettings) -> str:
    return text_key(caption, settings.text_length, settings.text_encoder)


def _caption_errors(clips: Sequence[Clip], spec: ModelSpec) -> dict[str, str]:
    """Return the captions that the tokenizer rejects, with the reasons."""
    tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
    errors: dict[str, str] = {}
    for caption in {clip.caption for clip in clips}:
        try:
            tokenizer.encode(caption, spec.settings.text_length)
        except UserError as error:
            errors[caption] = f"its caption cannot be used: {error}"
    return errors
