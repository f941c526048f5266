"""The VAE's configuration, field for field what diffusers stores in `vae/config.json`. Imports no torch."""

from dataclasses import dataclass, fields, replace
from typing import Any

from cogvideox.errors import UserError

DIFFUSERS_CLASS = "AutoencoderKLCogVideoX"

# Keys of the diffusers file that carry no choice here, with the only value the architecture has.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True)
class VAEConfig:
    """Widths and factors of the VAE. Defaults are the official ones (2B), 215.6 M parameters.

    Raises:
        UserError: widths that the norm groups do not divide, or a temporal ratio that is not 1, 2, 4 ... of the levels.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: int = 3
    norm_eps: float = 1e-6
    norm_num_groups: int = 32
    temporal_compression_ratio: int = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    invert_scale_latents: bool = False
    force_upcast: bool = True

    def __post_init__(self) -> None:
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise UserError(
                    f"VAE width {width} in block_out_channels is not a multiple of "
                    f"norm_num_groups={self.norm_num_groups}."
                )
        ratio = self.temporal_compression_ratio
        if ratio < 1 or ratio & (ratio - 1) or ratio > 2 ** len(self.block_out_channels):
            raise UserError(f"temporal_compression_ratio={ratio} must be a power of two, a level for each factor of 2.")

    @property
    def num_temporal_levels(self) -> int:
        """How many levels halve time, counted from the first of the encoder."""
        return self.temporal_compression_ratio.bit_length() - 1

    @property
    def spatial_compression_ratio(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_diffusers(cls, data: dict[str, Any]) -> "VAEConfig":
        """Read the content of a `vae/config.json`; a key or value that this architecture cannot honour is an error."""
        known = {field.name for field in fields(cls)}
        chosen: dict[str, Any] = {}
        for key, value in data.items():
            if key.startswith("_") or key in ("down_block_types", "up_block_types"):
                continue
            if key in known:
                chosen[key] = tuple(value) if isinstance(value, list) else value
            elif key not in _FIXED:
                raise UserError(f"The VAE config has the unknown key {key!r}.")
            elif value != _FIXED[key]:
                raise UserError(f"The VAE config sets {key}={value!r}, but only {_FIXED[key]!r} is supported.")
        ratio = chosen.get("temporal_compression_ratio")
        if isinstance(ratio, float):  # diffusers types this field as a float
            chosen["temporal_compression_ratio"] = int(ratio)
        return cls(**chosen)

    def to_diffusers(self) -> dict[str, Any]:
        """The content of `vae/config.json` that `diffusers.AutoencoderKLCogVideoX` reads."""
        num_levels = len(self.block_out_channels)
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "_class_name": DIFFUSERS_CLASS,
            **own,
            "block_out_channels": list(self.block_out_channels),
            "down_block_types": ["CogVideoXDownBlock3D"] * num_levels,
            "up_block_types": ["CogVideoXUpBlock3D"] * num_levels,
            **_FIXED,
        }


@dataclass(frozen=True)
class LossWeights:
    """What each term of the VAE's loss counts (paper section 2.1; its weights are not published).

    Reconstruction terms are means over pixels, `kl` is a mean over latent elements.
    """

    l1: float = 1.0
    l2: float = 1.0
    kl: float = 2e-4


def _official(scaling_factor: float, *, invert_scale_latents: bool = False) -> VAEConfig:
    return replace(VAEConfig(), scaling_factor=scaling_factor, invert_scale_latents=invert_scale_latents)


PRESETS = {
    "2b": lambda: _official(1.15258426),
    "5b": lambda: _official(0.7),
    "5b-i2v": lambda: _official(0.7),
    "1.5-5b": lambda: _official(0.7, invert_scale_latents=True),
    "1.5-5b-i2v": lambda: _official(0.7, invert_scale_latents=True),
}
