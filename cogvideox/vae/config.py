"""The VAE's configuration, field for field what diffusers stores in `vae/config.json`. Imports no torch."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cogvideox.config import from_dict
from cogvideox.errors import UserError
from cogvideox.geometry import FRAME_RATIO

DIFFUSERS_CLASS = "AutoencoderKLCogVideoX"
_WHERE = "vae/config.json"

# Keys of the diffusers file that carry no choice here, with the only value the architecture has.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

# Keys that name a class for each level; there is one kind of each.
_BLOCKS = {"down_block_types": "CogVideoXDownBlock3D", "up_block_types": "CogVideoXUpBlock3D"}


@dataclass(frozen=True)
class VAEConfig:
    """Widths and factors of the VAE. Defaults are the official ones (2B), 215.6 M parameters.

    Raises:
        UserError: a size below 1, widths that the norm groups do not divide, another ratio of time than 4.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    """Channels of each level of the encoder; the decoder has them in reverse. Each level but the last halves space."""
    latent_channels: int = 16
    layers_per_block: int = 3
    """ResNet blocks of an encoder level; a decoder level has one more."""
    norm_eps: float = 1e-6
    """Of the norms in the encoder's ResNet blocks. Every other norm has 1e-6, as in diffusers."""
    norm_num_groups: int = 32
    temporal_compression_ratio: int = 4
    sample_height: int = 480
    """Size of the training clips in pixels, a note for people and for diffusers' tiling; nothing here depends on it."""
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    """The transformer works on latents times this."""
    invert_scale_latents: bool = False
    """diffusers' image-to-video divides the image's latents by the factor instead (1.5); for its sake only."""
    force_upcast: bool = True
    """diffusers' note that float16 may overflow; for its sake only."""

    def __post_init__(self) -> None:
        sizes = {f"block_out_channels[{i}]": width for i, width in enumerate(self.block_out_channels)}
        for name in ("in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"):
            sizes[name] = getattr(self, name)
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name}={size} of the VAE is below the smallest legal value, 1")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                legal = max(1, round(width / self.norm_num_groups)) * self.norm_num_groups
                raise UserError(
                    f"the width {width} in block_out_channels of the VAE is not a multiple of "
                    f"norm_num_groups={self.norm_num_groups}; the nearest is {legal}"
                )
        if self.temporal_compression_ratio != FRAME_RATIO:
            raise UserError(
                f"temporal_compression_ratio={self.temporal_compression_ratio} of the VAE is not supported: sizes, "
                f"chunks and the transformer count {FRAME_RATIO} frames to a latent one"
            )
        if len(self.block_out_channels) <= self.num_temporal_levels:
            raise UserError(
                f"block_out_channels={self.block_out_channels} of the VAE has too few levels: the first "
                f"{self.num_temporal_levels} halve time, so the least is {self.num_temporal_levels + 1}"
            )
        if not 0 < self.scaling_factor < math.inf:
            raise UserError(f"scaling_factor={self.scaling_factor} of the VAE has to be a positive number")

    @property
    def image_scaling_factor(self) -> float:
        """The transformer is given an image's latents times this. The original code of 1.5 leaves them as they are."""
        return 1.0 if self.invert_scale_latents else self.scaling_factor

    @property
    def num_temporal_levels(self) -> int:
        """How many levels halve time, counted from the first of the encoder."""
        return self.temporal_compression_ratio.bit_length() - 1

    @property
    def spatial_compression_ratio(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_diffusers(cls, data: dict[str, Any]) -> "VAEConfig":
        """Read the content of a `vae/config.json`. Keys that start with an underscore are the library's notes.

        Raises:
            UserError: an unknown key, or a value that this architecture cannot honour.
        """
        chosen = {key: value for key, value in data.items() if not key.startswith("_")}
        for key, only in _FIXED.items():
            if chosen.pop(key, only) != only:
                raise UserError(f"{_WHERE}: {key} is {data[key]!r}, but only {only!r} is supported")
        blocks = {key: chosen.pop(key, None) for key in _BLOCKS}
        ratio = chosen.get("temporal_compression_ratio")
        if isinstance(ratio, float) and ratio.is_integer():  # diffusers types this field as a float
            chosen["temporal_compression_ratio"] = int(ratio)
        config = from_dict(cls, chosen, where=_WHERE)
        for key, only in config._blocks().items():
            if blocks[key] not in (None, only):
                raise UserError(f"{_WHERE}: {key} is {blocks[key]!r}, but only {only!r} is supported")
        return config

    def to_diffusers(self) -> dict[str, Any]:
        """The content of `vae/config.json` that `diffusers.AutoencoderKLCogVideoX` reads."""
        own = {**asdict(self), "block_out_channels": list(self.block_out_channels)}
        return {"_class_name": DIFFUSERS_CLASS, **own, **self._blocks(), **_FIXED}

    def _blocks(self) -> dict[str, list[str]]:
        return {key: [kind] * len(self.block_out_channels) for key, kind in _BLOCKS.items()}


@dataclass(frozen=True)
class LossWeights:
    """What each term of the VAE's loss counts (paper section 2.1; its weights are not published).

    Reconstruction terms are means over pixels, `kl` is a mean over latent elements.
    """

    l1: float = 1.0
    l2: float = 1.0
    perceptual: float = 0.0
    """Of LPIPS or, where its files are not given, of the fixed features that stand in for it (`perceptual`)."""
    kl: float = 2e-4
    gan: float = 0.0
    """Of the adversarial term, after the factor that makes it pull as hard as the other terms (`discriminator`)."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Widths of the discriminator (`discriminator`). With the default levels it judges patches of a latent's size.

    Raises:
        UserError: a size below 1, more levels that halve time than levels.
    """

    width: int = 64
    """Channels at full size; each level doubles them,"""
    max_width: int = 512
    """up to this many."""
    num_levels: int = 3
    """Each halves height and width,"""
    num_temporal_levels: int = 2
    """and the first so many halve time."""

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("max_width", 1), ("num_levels", 1), ("num_temporal_levels", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} of the discriminator is below {least}, the least")
        most = min(self.num_levels, FRAME_RATIO.bit_length() - 1)
        if self.num_temporal_levels > most:
            raise UserError(
                f"num_temporal_levels={self.num_temporal_levels} of the discriminator is above {most}, the most: clips "
                f"have {FRAME_RATIO}k+1 frames, and {self.num_levels} levels are there"
            )


PRESETS: dict[str, Callable[[], VAEConfig]] = {
    "2b": VAEConfig,
    "5b": lambda: VAEConfig(scaling_factor=0.7),
    "5b-i2v": lambda: VAEConfig(scaling_factor=0.7),
    "1.5-5b": lambda: VAEConfig(scaling_factor=0.7, invert_scale_latents=True),
    "1.5-5b-i2v": lambda: VAEConfig(scaling_factor=0.7, invert_scale_latents=True),
}
"""The five official models. Their weights have the same shapes, and differ in the scale of the latents."""
