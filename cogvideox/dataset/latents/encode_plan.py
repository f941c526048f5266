"""Plan of an encoding run: the windows to encode, their cache keys, and the clips that cannot be used.

A plan is made once per folder. Reports, size estimates, contact sheets and the run itself all read it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cogvideox import config
from cogvideox.dataset.cache_keys import first_frames_key, latents_key, text_key, weights_hash
from cogvideox.dataset.config import ClipFormat, StoreSettings
from cogvideox.dataset.ingest.clip_windows import ClipWindow, clip_windows
from cogvideox.dataset.ingest.scan import ScannedFolder
from cogvideox.errors import UserError
from cogvideox.geometry import latent_shape
from cogvideox.pretrained.model_spec import ModelSpec, weights_file
from cogvideox.records import Clip
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.text.tokenizer import Tokenizer


class WindowKeys(NamedTuple):
    """The cache keys of one window: prompt embedding, latents, and first frames (None if they are not encoded)."""

    text: str
    latents: str
    first_frames: str | None


@dataclass(frozen=True)
class EncodePlan:
    """What an encoding run will do.

    Attributes:
        spec: the model whose VAE and text encoder are used.
        settings: the settings of the latent store.
        windows, keys: the windows to encode, and their cache keys.
        unusable_clips: clips that cannot be encoded, with the reason.
        rejects: (file or row, reason) of everything in the folder that cannot be used, including these clips.
        content_hash: see `ScannedFolder`.
    """

    spec: ModelSpec
    settings: StoreSettings
    windows: list[ClipWindow]
    keys: list[WindowKeys]
    unusable_clips: list[tuple[Clip, str]] = field(default_factory=list)
    scan_rejects: list[tuple[str, str]] = field(default_factory=list)
    content_hash: str = ""

    @property
    def rejects(self) -> list[tuple[str, str]]:
        return [*self.scan_rejects, *((str(clip.source), reason) for clip, reason in self.unusable_clips)]

    @property
    def captions(self) -> dict[str, str]:
        """Every distinct caption by its key, including the empty one for classifier-free guidance."""
        captions = ("", *(window.clip.caption for window in self.windows))
        return {caption_key(self.settings, caption): caption for caption in captions}

    @property
    def num_bytes(self) -> int:
        """Size on disk if nothing has been encoded yet."""
        of_windows = sum(self.latent_bytes(window) + self.first_frames_bytes(window) for window in self.windows)
        return of_windows + len(self.captions) * self.text_bytes

    @property
    def text_bytes(self) -> int:
        """Size of one prompt embedding in bfloat16."""
        return 2 * self.settings.text_length * self.settings.text_width

    def latent_bytes(self, window: ClipWindow) -> int:
        """Size of a window's mean and log-variance in bfloat16."""
        shape = latent_shape(window.num_frames, window.height, window.width, ratio=self.settings.ratio)
        return 4 * self.settings.latent_channels * math.prod(shape)

    def first_frames_bytes(self, window: ClipWindow) -> int:
        """Size of the encoded copies of a window's first frame."""
        return self.settings.target.first_frames * self.latent_bytes(replace(window, num_frames=1))


def plan_encoding(folder: ScannedFolder, spec: ModelSpec, target: ClipFormat) -> EncodePlan:
    """Cut the clips of a folder into windows, check their captions, and compute cache keys.

    Of the model's weights, samples are read to hash them.

    Raises:
        UserError: sizes that do not fit the model, missing weights, or a tokenizer that cannot be read.
    """
    settings = store_settings(spec, target)
    windows: list[ClipWindow] = []
    unusable: list[tuple[Clip, str]] = []
    for clip in folder.clips:
        try:
            windows += clip_windows(clip, target)
        except UserError as error:
            unusable.append((clip, str(error)))
    errors = _caption_errors(windows, spec)
    unusable += [(window.clip, errors[window.clip.caption]) for window in windows if window.clip.caption in errors]
    windows = [window for window in windows if window.clip.caption not in errors]
    keys = [_window_keys(window, settings) for window in windows]
    return EncodePlan(spec, settings, windows, keys, unusable, folder.rejects, folder.content_hash)


def store_settings(spec: ModelSpec, target: ClipFormat) -> StoreSettings:
    """Return the settings of a latent store for a model; samples of the weights are read to hash them.

    Raises:
        UserError: the target's sizes are not multiples of the model's patches, or weights are missing.
    """
    if target.multiple % spec.size_multiple:
        raise UserError(
            f"sizes in multiples of {target.multiple} pixels do not fit the model: use multiples of "
            f"{spec.size_multiple}"
        )
    vae, text = (open_weights(weights_file(spec.path / name, name)) for name in ("vae", "text_encoder"))
    encoder = [name for name in vae if name.startswith("encoder.")]  # latents do not depend on the decoder
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


def caption_key(settings: StoreSettings, caption: str) -> str:
    """Return the cache key of a caption's embedding."""
    return text_key(caption, settings.text_length, settings.text_encoder)


def _window_keys(window: ClipWindow, settings: StoreSettings) -> WindowKeys:
    copies = settings.target.first_frames
    return WindowKeys(
        text=caption_key(settings, window.clip.caption),
        latents=latents_key(window, settings.vae),
        first_frames=first_frames_key(window, copies, settings.vae) if copies else None,
    )


def _caption_errors(windows: Sequence[ClipWindow], spec: ModelSpec) -> dict[str, str]:
    """The captions that the tokenizer rejects, with the reason."""
    tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
    errors: dict[str, str] = {}
    for caption in {window.clip.caption for window in windows}:
        try:
            tokenizer.encode(caption, spec.settings.text_length)
        except UserError as error:
            errors[caption] = f"its caption cannot be used: {error}"
    return errors
