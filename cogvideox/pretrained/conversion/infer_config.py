"""Inference of a network's config from the names and shapes of its tensors, without reading values.

Tensors determine all settings except the base size in pixels and frames, the VAE's scaling factor, and the position
embedding type of a 1.0 transformer with diffusers' names. These default to the official model with the same
architecture; if that is also ambiguous, `ConfigUnknown` is raised.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal, get_args

from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.pretrained.components import diffusers_keymap
from cogvideox.pretrained.detect_variant import Variant
from cogvideox.pretrained.model_spec import ComponentName, NetworkConfig
from cogvideox.state_dict.key_rules import Rule, external_names
from cogvideox.text import checkpoint_keys as text_keys
from cogvideox.text.config import T5Config
from cogvideox.transformer import checkpoint_keys as transformer_keys
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae import checkpoint_keys as vae_keys
from cogvideox.vae.config import PRESETS as VAE_PRESETS
from cogvideox.vae.config import VAEConfig

Naming = Literal["diffusers", "SAT"]
"""Code base whose tensor names a file uses; "diffusers" includes transformers' names for the text encoder."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

# Each of these prefixes identifies one component and naming.
_PREFIXES: dict[str, tuple[ComponentName, Naming]] = {
    "transformer_blocks.": ("transformer", "diffusers"),
    "mixins.": ("transformer", "SAT"),
    "encoder.down_blocks.": ("vae", "diffusers"),
    "encoder.down.": ("vae", "SAT"),
    "encoder.block.": ("text_encoder", "diffusers"),
}

_FREQUENCIES = "mixins.pos_embed.freqs_cos"  # SAT stores the rotary frequency table, which is not a weight
_ADDED_POSITIONS = "mixins.pos_embed.pos_embedding"


class ConfigUnknown(Exception):
    """Raised if the tensors do not determine the config; the message completes a sentence about the file."""


def classify_component(names: Iterable[str]) -> tuple[ComponentName, Naming] | None:
    """Return the component and naming of a group of tensors; None if they are not recognized."""
    for name in names:
        for prefix, component in _PREFIXES.items():
            if name.startswith(prefix):
                return component
    return None


def keymap_for(naming: Naming, config: NetworkConfig) -> list[Rule]:
    """Return the rules between the names in the file and the names of the network."""
    match config, naming:
        case TransformerConfig(), "SAT":
            return transformer_keys.sat_keymap(config)
        case VAEConfig(), "SAT":
            return vae_keys.sat_keymap(config)
    return diffusers_keymap(config)


def unused_tensors(meta: Mapping[str, Tensor], component: ComponentName, naming: Naming) -> list[str]:
    """List tensors in SAT files that are not weights of the network: precomputed tables and parts of the loss."""
    if naming != "SAT":
        return []
    if component == "vae":
        return [name for name in meta if name.startswith("loss.")]
    unused = ["mixins.pos_embed.freqs_", "transformer.word_embeddings.", "transformer.position_embeddings."]
    if _has_sinusoidal_positions(meta):
        unused.append(_ADDED_POSITIONS)
    return [name for name in meta if name.startswith(tuple(unused)) or "embed_tokens" in name]


def _has_sinusoidal_positions(meta: Mapping[str, Tensor]) -> bool:
    """Return whether the added positions of a SAT transformer are a fixed sinusoid (2B), not weights (5B-I2V).

    Only 2B has added positions without a table of rotary positions, except that SAT's main branch does not store this
    table. Only image-to-video models have more input than output channels.
    """
    patch, last = (meta.get(f"mixins.{name}.weight") for name in ("patch_embed.proj", "final_layer.linear"))
    is_image_to_video = patch is not None and last is not None and prod(patch.shape[1:]) != last.shape[0]
    return _ADDED_POSITIONS in meta and _FREQUENCIES not in meta and not is_image_to_video


def transformer_config(meta: Mapping[str, Tensor], naming: Naming, variant: Variant | None = None) -> TransformerConfig:
    """Infer the config of a transformer. `variant` resolves ambiguities.

    Raises:
        ConfigUnknown: the tensors do not determine the config.
    """
    shape = _shape_reader(meta, keymap_for(naming, TransformerConfig()))
    width, text_embed_dim = shape("text_in.weight")
    patch = shape("patch_in.weight")
    head_dim = shape("blocks.0.attention.norm_q.weight")[0]
    rows = shape("final.linear.weight")[0]
    patches_time = len(patch) == 2 and not _embeds_single_frames(rows, variant)
    patch_size = patch[-1] if len(patch) == 4 else 2
    volume = patch_size**2 * (2 if patches_time else 1)
    sizes = {
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": _count(r"(?:transformer_blocks|transformer\.layers)\.(\d+)\.", meta),
        "in_channels": patch[1] // volume if len(patch) == 2 else patch[1],
        "out_channels": rows // volume,
        "patch_size": patch_size,
        "time_embed_dim": shape("time_embed.out.weight")[0],
        "text_embed_dim": text_embed_dim,
    }
    added = shape("learned_positions", default=())
    if patches_time:
        is_image_to_video = sizes["in_channels"] != sizes["out_channels"]
        preset: Variant = "1.5-5b-i2v" if is_image_to_video else "1.5-5b"
    else:
        preset = _variant_1_0(meta, naming, sizes, bool(added), variant)
    config = PRESETS[preset]()
    ofs = shape("ofs_embed.out.weight", default=())
    learned = config.use_rotary_positional_embeddings and bool(added)
    try:
        config = replace(
            config, **sizes, ofs_embed_dim=ofs[0] if ofs else None, use_learned_positional_embeddings=learned
        )
    except UserError as error:
        raise ConfigUnknown(str(error)) from error
    if learned and added[1] != config.max_text_seq_length + prod(config.base_grid):
        raise ConfigUnknown(
            f"its {added[1]} learned positions are not those of the official size, so their height, width and number "
            "of frames are unknown"
        )
    return config


def _embeds_single_frames(rows: int, variant: Variant | None) -> bool:
    """Return whether a linear patch embedding has patches of 1x2x2 instead of 2x2x2 as in the 1.5 models.

    The 1.0 models use a convolution, but SAT's main branch has a linear layer for patches of any size. They differ only
    in the number of output rows, which is channels times patch volume; official models have 16 channels.

    Args:
        rows: number of rows of the last layer.
        variant: the variant, used if the number of channels is not the official one.
    """
    official = TransformerConfig().out_channels
    if rows in (4 * official, 8 * official):
        return rows == 4 * official
    return variant in ("2b", "5b", "5b-i2v")


def vae_config(meta: Mapping[str, Tensor], naming: Naming, variant: Variant | None = None) -> VAEConfig:
    """Infer the config of a VAE. `variant` determines the scaling factor, which is not in the tensors.

    Raises:
        ConfigUnknown: the tensors do not determine the config.
    """
    num_levels = _count(r"encoder\.(?:down|down_blocks)\.(\d+)\.", meta)
    default = VAEConfig(block_out_channels=(32,) * max(num_levels, 3))
    shape = _shape_reader(meta, keymap_for(naming, default))
    widths = tuple(shape(f"encoder.levels.{i}.resnets.0.conv1.weight")[0] for i in range(num_levels))
    if any(width % default.norm_num_groups for width in widths):
        raise ConfigUnknown(f"its widths {widths} are not multiples of 32, so the number of norm groups is unknown")
    if variant is None:
        scales = ", ".join(f"{preset().scaling_factor} in {name}" for name, preset in VAE_PRESETS.items())
        raise ConfigUnknown(f"the scaling factor of its latents is not in the tensors ({scales})")
    return replace(
        VAE_PRESETS[variant](),
        block_out_channels=widths,
        in_channels=shape("encoder.conv_in.weight")[1],
        out_channels=shape("decoder.conv_out.weight")[0],
        latent_channels=shape("decoder.conv_in.weight")[1],
        layers_per_block=_count(r"encoder\.(?:down\.0\.block|down_blocks\.0\.resnets)\.(\d+)\.", meta),
    )


def text_config(meta: Mapping[str, Tensor]) -> T5Config:
    """Infer the config of a T5 encoder.

    Raises:
        ConfigUnknown: the tensors do not determine the config.
    """
    if "encoder.block.0.layer.1.DenseReluDense.wi.weight" in meta:
        raise ConfigUnknown("it is a T5 before version 1.1; only version 1.1 is supported")
    shape = _shape_reader(meta, text_keys.TRANSFORMERS_KEYMAP)
    vocab_size, d_model = shape("embed.weight")
    num_buckets, num_heads = shape("position_bias.weight")
    return T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=shape("blocks.0.attention.qkv.weight")[0] // num_heads,
        d_ff=shape("blocks.0.mlp.wo.weight")[1],
        num_layers=_count(r"encoder\.block\.(\d+)\.", meta),
        num_heads=num_heads,
        relative_attention_num_buckets=num_buckets,
    )


def _variant_1_0(
    meta: Mapping[str, Tensor], naming: Naming, sizes: Mapping[str, int], has_added: bool, variant: Variant | None
) -> Variant:
    """Return the variant of a transformer without temporal patches, which determines its position embedding type."""
    if naming == "SAT" and _has_sinusoidal_positions(meta):
        return "2b"
    if sizes["in_channels"] != sizes["out_channels"]:
        return "5b-i2v"
    if naming == "SAT" or has_added:
        return "5b"
    if variant in ("2b", "5b"):
        return variant
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    official: dict[int, Variant] = {PRESETS["2b"]().width: "2b", PRESETS["5b"]().width: "5b"}
    if width not in official:
        raise ConfigUnknown("the tensors do not show whether its positions are sinusoidal (2b) or rotary (5b)")
    return official[width]


def _shape_reader(meta: Mapping[str, Tensor], rules: Sequence[Rule]) -> Callable[..., tuple[int, ...]]:
    """Return a function that maps an internal name to the shape of its first external tensor."""

    def shape(internal: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        name = external_names(internal, rules)[0]
        if name in meta:
            return tuple(meta[name].shape)
        if default is None:
            raise ConfigUnknown(f"{name}, whose shape is needed, is missing")
        return default

    return shape


def _count(pattern: str, names: Iterable[str]) -> int:
    """Return one plus the largest integer that the pattern matches at the start of a name."""
    return max((int(match[1]) + 1 for name in names if (match := re.match(pattern, name))), default=0)
