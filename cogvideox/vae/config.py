"""Configurations of the VAE (with the fields of diffusers' `vae/config.json`), its loss and its discriminator."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cogvideox.config import VARIANT, from_dict, to_dict
from cogvideox.errors import UserError
from cogvideox.geometry import FRAME_RATIO
from cogvideox.untrusted.files import check_sizes

DIFFUSERS_CLASS = "AutoencoderKLCogVideoX"
VARIANT_CLASS = "AutoencoderKLCogVideoXVariant"

TimePadding = Literal["causal", "symmetric"]
"""Padding of convolutions in time: two previous frames ("causal"), or one frame before and one after ("symmetric").
Frames beyond the ends of a clip are copies of its first or last frame. With "symmetric", a clip is a single chunk."""
_WHERE = "vae/config.json"

# Keys of the diffusers file with a single supported value.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

# Keys of the diffusers file that list the class of each level, and the only supported class.
_BLOCKS = {"down_block_types": "CogVideoXDownBlock3D", "up_block_types": "CogVideoXUpBlock3D"}

MIN_SUMMED_CHANNELS = 16
"""Minimum number of input channels for which a CPU computes a repeated first frame with summed filters; it is slower
with 3 channels."""

MAX_PREPARED_PIXELS = 32 * 32
"""Maximum height x width of the feature maps for which a CPU keeps prepared weights (`inference.convolutions`). For
larger ones, the preparation takes little of the time of the convolution."""


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of the VAE. The defaults are those of CogVideoX-2B (215.6 M parameters).

    Raises:
        UserError: a size is below 1, a width is not divisible by `norm_num_groups`, or the compression of time is not
            supported.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    """Channels of each encoder level, reversed in the decoder. Every level but the last halves height and width."""
    latent_channels: int = 16
    layers_per_block: int = 3
    """ResNet blocks of an encoder level; decoder levels have one more."""
    norm_eps: float = 1e-6
    """Epsilon of the norms in the encoder's ResNet blocks. Every other norm uses 1e-6, as in diffusers."""
    norm_num_groups: int = 32
    temporal_compression_ratio: int = 4
    """Video frames per latent frame after the first. Transformers support 4 only."""
    sample_height: int = 480
    """Height of the training clips in pixels, used only by tiling in diffusers."""
    sample_width: int = 720
    """Width of the training clips in pixels, used only by tiling in diffusers."""
    scaling_factor: float = 1.15258426
    """The transformer works on the VAE's latents multiplied by this factor."""
    invert_scale_latents: bool = False
    """Whether latents of conditioning images are left unscaled, as in CogVideoX 1.5; see `image_scaling_factor`."""
    force_upcast: bool = True
    """Written to the diffusers file because float16 may overflow; not used by this package."""
    time_padding: TimePadding = field(default="causal", metadata=VARIANT)

    def __post_init__(self) -> None:
        sizes = {f"block_out_channels[{i}]": width for i, width in enumerate(self.block_out_channels)}
        for name in ("in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"):
            sizes[name] = getattr(self, name)
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name}={size} of the VAE must be 1 or more")
        check_sizes(asdict(self), "the VAE")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                valid = max(1, round(width / self.norm_num_groups)) * self.norm_num_groups
                raise UserError(
                    f"the width {width} in block_out_channels of the VAE must be a multiple of "
                    f"norm_num_groups={self.norm_num_groups}; the nearest is {valid}"
                )
        if self.temporal_compression_ratio not in (1, 2, 4, 8):
            raise UserError(
                f"temporal_compression_ratio={self.temporal_compression_ratio} of the VAE is not supported: it must be "
                f"{FRAME_RATIO}, or 1, 2 or 8 for a VAE without a transformer"
            )
        if len(self.block_out_channels) <= self.num_temporal_levels:
            raise UserError(
                f"block_out_channels={self.block_out_channels} of the VAE must have {self.num_temporal_levels + 1} "
                f"levels or more, because the first {self.num_temporal_levels} halve time"
            )
        if not 0 < self.scaling_factor < math.inf:
            raise UserError(f"scaling_factor={self.scaling_factor} of the VAE must be a positive number")

    @property
    def image_scaling_factor(self) -> float:
        """Scaling factor for the latents of a conditioning image.

        It is 1 with `invert_scale_latents`, as in the original code of 1.5 (diffusers divides by `scaling_factor`).
        """
        return 1.0 if self.invert_scale_latents else self.scaling_factor

    @property
    def is_variant(self) -> bool:
        """Whether the VAE differs from all official ones in time, so that transformers and generation refuse it."""
        return self.time_padding != "causal" or self.temporal_compression_ratio != FRAME_RATIO

    def check_usable_by_transformers(self) -> None:
        """Raise UserError if this is a variant, which can be trained and scored but has no transformer."""
        if self.is_variant:
            raise UserError(
                f"transformers need a VAE with time_padding=causal and temporal_compression_ratio={FRAME_RATIO}, not "
                f"{self.time_padding} and {self.temporal_compression_ratio}"
            )

    @property
    def diffusers_class(self) -> str:
        """Name of the class in diffusers. A variant has a name that diffusers does not know, so that it refuses it."""
        return DIFFUSERS_CLASS if self.time_padding == "causal" else VARIANT_CLASS

    @property
    def num_temporal_levels(self) -> int:
        """Number of encoder levels that halve time, starting with the first."""
        return self.temporal_compression_ratio.bit_length() - 1

    @property
    def spatial_compression_ratio(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_diffusers(cls, data: dict[str, Any]) -> "VAEConfig":
        """Parse the content of a `vae/config.json`. Keys that start with an underscore are ignored.

        Raises:
            UserError: a key is unknown or a value is not supported.
        """
        fields = {key: value for key, value in data.items() if not key.startswith("_")}
        for key, supported in _FIXED.items():
            if fields.pop(key, supported) != supported:
                raise UserError(f"{_WHERE}: {key} is {data[key]!r}, but only {supported!r} is supported")
        block_types = {key: fields.pop(key, None) for key in _BLOCKS}
        ratio = fields.get("temporal_compression_ratio")
        if isinstance(ratio, float) and ratio.is_integer():  # diffusers types this field as a float
            fields["temporal_compression_ratio"] = int(ratio)
        config = from_dict(cls, fields, where=_WHERE)
        for key, supported in config._block_types().items():
            if block_types[key] not in (None, supported):
                raise UserError(f"{_WHERE}: {key} is {block_types[key]!r}, but only {supported!r} is supported")
        return config

    def to_diffusers(self) -> dict[str, Any]:
        """Return the content of a `vae/config.json` for `diffusers.AutoencoderKLCogVideoX`."""
        return {"_class_name": self.diffusers_class, **to_dict(self), **self._block_types(), **_FIXED}

    def _block_types(self) -> dict[str, list[str]]:
        return {key: [block_type] * len(self.block_out_channels) for key, block_type in _BLOCKS.items()}


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the VAE's loss (paper section 2.1, which does not give their values).

    Reconstruction terms are means over pixels, and `kl` is a mean over latent elements.
    """

    l1: float = 1.0  # absolute error of pixels
    l2: float = 1.0  # squared error of pixels
    perceptual: float = 0.0
    """Weight of the perceptual term: LPIPS or, without its weight files, random features (`losses.perceptual`)."""
    kl: float = 2e-4  # KL divergence of the latents from a normal distribution
    gan: float = 0.0
    """Weight of the GAN loss, multiplied by the adaptive weight (`losses.discriminator.adaptive_weight`)."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the discriminator. With the default levels, it outputs one logit per latent position.

    Raises:
        UserError: a size is below 1, or there are more temporal levels than levels.
    """

    width: int = 64
    """Channels at full resolution; each level doubles them."""
    max_width: int = 512
    """Maximum number of channels."""
    num_levels: int = 3
    """Number of levels; each one halves height and width."""
    num_temporal_levels: int = 2
    """Number of levels that halve time, starting with the first."""

    def __post_init__(self) -> None:
        for name, minimum in (("width", 1), ("max_width", 1), ("num_levels", 1), ("num_temporal_levels", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"{name}={getattr(self, name)} of the discriminator must be {minimum} or more")
        maximum = min(self.num_levels, FRAME_RATIO.bit_length() - 1)
        if self.num_temporal_levels > maximum:
            raise UserError(
                f"num_temporal_levels={self.num_temporal_levels} of the discriminator must be {maximum} or less: "
                f"num_levels={self.num_levels}, and clips have {FRAME_RATIO}k+1 frames"
            )


PRESETS: dict[str, Callable[[], VAEConfig]] = {
    "2b": VAEConfig,
    "5b": lambda: VAEConfig(scaling_factor=0.7),
    "5b-i2v": lambda: VAEConfig(scaling_factor=0.7),
    "1.5-5b": lambda: VAEConfig(scaling_factor=0.7, invert_scale_latents=True),
    "1.5-5b-i2v": lambda: VAEConfig(scaling_factor=0.7, invert_scale_latents=True),
}
"""The VAEs of the five official models. Their weights have equal shapes, but their latents differ in scale."""
