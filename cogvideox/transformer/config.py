"""Configuration of the transformer, with the fields of `transformer/config.json` in diffusers."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cogvideox.config import VARIANT, from_dict, to_dict
from cogvideox.errors import UserError
from cogvideox.untrusted.files import check_sizes

DIFFUSERS_CLASS = "CogVideoXTransformer3DModel"
VARIANT_CLASS = "CogVideoXVariantTransformer3DModel"

PositionRule = Literal["resize_crop", "slice"]
"""How rotary coordinates depend on the size of the clip. Both rules agree at the base size.

"resize_crop" (1.0): the clip's grid is scaled to fit inside the base grid and centered there, so that coordinates stay
in the range seen in training. "slice" (1.5): patches are counted from 0.
"""

AttentionKind = Literal["full", "factorized"]
"""Attention over all tokens of a clip ("full", 3D), or 2D+1D ("factorized"): even blocks attend within frames, odd
blocks over time. The parameters are the same."""

SeparateWeights = Literal["none", "modulation", "all"]
"""Weights of a block that text and video have separately. "modulation": expert adaptive LayerNorm. "none": a single
modulation for both. "all": separate streams, which meet only in attention (MMDiT, Esser et al. 2024)."""

# Fields of variants that diffusers does not have.
_VARIANTS = ("attention", "separate_weights", "ffn_dim")

# Keys of the diffusers file with a single supported value.
_FIXED: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "timestep_activation_fn": "silu",
}


@dataclass(frozen=True)
class TransformerConfig:
    """Architecture of the transformer. The defaults are those of CogVideoX-2B (1.69 B parameters).

    Raises:
        UserError: a size is below 1, or sizes do not fit together; the message states the rule.
    """

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    num_layers: int = 30
    in_channels: int = 16
    """Input channels: 16, or 32 for image-to-video (noised latents first, then image latents)."""
    out_channels: int = 16
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None
    """Width of the embedding of `ofs`, a second scalar condition of 1.5-5B-I2V; None in all other models."""
    text_embed_dim: int = 4096
    max_text_seq_length: int = 226
    patch_size: int = 2
    patch_size_t: int | None = None
    """Latent frames per patch in the 1.5 family; None in the 1.0 family, with one frame per patch."""
    patch_bias: bool = True
    """Whether the patch projection has a bias. Ignored for 1.5, which has one although its config says false."""
    norm_eps: float = 1e-5
    sample_height: int = 60
    """Base height in latent pixels. "resize_crop" rotary positions and learned positions refer to the base size."""
    sample_width: int = 90
    """Base width in latent pixels."""
    sample_frames: int = 49
    """Base length in video frames (not latent frames)."""
    temporal_compression_ratio: int = 4
    """Video frames per latent frame after the first."""
    spatial_interpolation_scale: float = 1.875
    """Divisor of height and width in sinusoidal positions."""
    temporal_interpolation_scale: float = 1.0
    """Divisor of time in sinusoidal positions."""
    use_rotary_positional_embeddings: bool = False
    """Use 3D RoPE instead of sinusoidal positions."""
    use_learned_positional_embeddings: bool = False
    """Add learned positions, in addition to RoPE (5B-I2V) or instead of sinusoidal positions."""
    attention: AttentionKind = field(default="full", metadata=VARIANT)
    separate_weights: SeparateWeights = field(default="modulation", metadata=VARIANT)
    ffn_dim: int | None = field(default=None, metadata=VARIANT)
    """Width of the hidden layer of a block's MLP; None is 4 times the width of a token. It makes the number of
    parameters of two variants equal (`training.diffusion.parameter_matching`)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise UserError(f"{name}={value} of the transformer must be positive")
        check_sizes(asdict(self), "the transformer")
        rotary = self.use_rotary_positional_embeddings
        name, size = ("attention_head_dim", self.attention_head_dim) if rotary else ("the width", self.width)
        if size % 16:
            # 1/4 of the channels for time and 3/8 for each of height and width, in pairs.
            raise UserError(
                f"{name}={size} of the transformer must be a multiple of 16, so that its channels can be split into "
                f"time, height and width; the nearest is {max(16, round(size / 16) * 16)}"
            )
        if self.ofs_embed_dim not in (None, self.time_embed_dim):
            raise UserError(
                f"ofs_embed_dim={self.ofs_embed_dim} of the transformer must equal "
                f"time_embed_dim={self.time_embed_dim}, because the embeddings are added"
            )
        for name, size in (("sample_height", self.sample_height), ("sample_width", self.sample_width)):
            if size % self.patch_size:
                raise UserError(
                    f"{name}={size} of the transformer must be a multiple of patch_size={self.patch_size}; "
                    f"the nearest is {max(1, round(size / self.patch_size)) * self.patch_size}"
                )

    @property
    def is_image_to_video(self) -> bool:
        """Whether this is an image-to-video model, with image latents as additional input channels."""
        return self.in_channels != self.out_channels

    @property
    def ofs(self) -> float | None:
        """The value of `ofs` in the official models; None for models without it."""
        return None if self.ofs_embed_dim is None else 2.0

    @property
    def width(self) -> int:
        """Channels of a token (d)."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_width(self) -> int:
        """Width of the hidden layer of a block's MLP."""
        return self.ffn_dim or 4 * self.width

    @property
    def num_modulations(self) -> int:
        """Number of modulations of a block: one each for text and video, or one for both."""
        return 1 if self.separate_weights == "none" else 2

    @property
    def needs_layout(self) -> bool:
        """Whether the operations of a block depend on the numbers of tokens of the clips in a packed row."""
        return self.attention == "factorized" or self.separate_weights == "all"

    @property
    def variants(self) -> dict[str, Any]:
        """The values of fields that differ from all official models, by name."""
        given = to_dict(self)
        variants = {name: given[name] for name in _VARIANTS if name in given}
        if self.use_learned_positional_embeddings and not self.use_rotary_positional_embeddings:
            variants["use_rotary_positional_embeddings"] = False
        return variants

    @property
    def diffusers_class(self) -> str:
        """Name of the class in diffusers. Variants have a name that diffusers does not know, so that it refuses them
        instead of ignoring their fields."""
        return VARIANT_CLASS if self.variants else DIFFUSERS_CLASS

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, height and width of a patch."""
        return (self.patch_size_t or 1, self.patch_size, self.patch_size)

    @property
    def patch_volume(self) -> int:
        """Number of latent pixels of a patch."""
        return (self.patch_size_t or 1) * self.patch_size**2

    @property
    def base_grid(self) -> tuple[int, int, int]:
        """Number of tokens in time, height and width at the base size."""
        latent_frames = (self.sample_frames - 1) // self.temporal_compression_ratio + 1
        frames_per_patch = self.patch_size_t or 1
        return (
            -(-latent_frames // frames_per_patch),
            self.sample_height // self.patch_size,
            self.sample_width // self.patch_size,
        )

    @property
    def position_rule(self) -> PositionRule | None:
        """The rule of the official pipelines: "resize_crop" for 1.0, "slice" for 1.5, None without RoPE."""
        if not self.use_rotary_positional_embeddings:
            return None
        return "resize_crop" if self.patch_size_t is None else "slice"

    @classmethod
    def from_diffusers(cls, data: dict[str, Any]) -> "TransformerConfig":
        """Parse the content of a `transformer/config.json`. Keys that start with an underscore are ignored.

        Raises:
            UserError: an unknown key or an unsupported value.
        """
        parameters = {key: value for key, value in data.items() if not key.startswith("_")}
        for key, supported in _FIXED.items():
            if parameters.pop(key, supported) != supported:
                raise UserError(f"transformer/config.json: {key} is {data[key]!r}, but only {supported!r} is supported")
        return from_dict(cls, parameters, where="transformer/config.json")

    def to_diffusers(self) -> dict[str, Any]:
        """Return the content of a `transformer/config.json` for diffusers' `CogVideoXTransformer3DModel`."""
        return {"_class_name": self.diffusers_class, **to_dict(self), **_FIXED}
