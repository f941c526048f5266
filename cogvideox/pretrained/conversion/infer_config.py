"""What a network is, told from the names and shapes of its tensors; no value is read.

Sizes are all there. What is not: the base size in pixels and frames, the VAE's scale, and which kind of positions a 1.0
transformer under diffusers' names adds. For these the official model of the same make is asked, and where that is not
clear either, there is a doubt instead of a guess.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal, get_args

from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.pretrained.components import NetworkConfig, diffusers_keymap
from cogvideox.pretrained.model_settings import Variant
from cogvideox.state_dict.keymap import Rule, external_names
from cogvideox.text import weights as text_weights
from cogvideox.text.config import T5Config
from cogvideox.transformer import weights as transformer_weights
from cogvideox.transformer.config import PRESETS, TransformerConfig
from cogvideox.vae import weights as vae_weights
from cogvideox.vae.config import PRESETS as VAE_PRESETS
from cogvideox.vae.config import VAEConfig

ComponentName = Literal["transformer", "vae", "text_encoder"]
Naming = Literal["diffusers", "SAT"]
"""Whose names the tensors have; those of transformers, for the text encoder, count as diffusers'."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

# Names of each part begin like this and those of no other do.
_SIGNS: dict[str, tuple[ComponentName, Naming]] = {
    "transformer_blocks.": ("transformer", "diffusers"),
    "mixins.": ("transformer", "SAT"),
    "encoder.down_blocks.": ("vae", "diffusers"),
    "encoder.down.": ("vae", "SAT"),
    "encoder.block.": ("text_encoder", "diffusers"),
}

_FREQUENCIES = "mixins.pos_embed.freqs_cos"  # SAT keeps the rotary table, which is no weight
_ADDED = "mixins.pos_embed.pos_embedding"


class ConfigUnknown(Exception):
    """What the tensors do not tell; the text ends a sentence about the file."""


def classify_component(names: Iterable[str]) -> tuple[ComponentName, Naming] | None:
    """Which part these tensors are, and in whose names; None for anything else."""
    for name in names:
        for sign, part in _SIGNS.items():
            if name.startswith(sign):
                return part
    return None


def rules_for(naming: Naming, config: NetworkConfig) -> list[Rule]:
    """The keymap from that naming to ours."""
    match config, naming:
        case TransformerConfig(), "SAT":
            return transformer_weights.sat_keymap(config)
        case VAEConfig(), "SAT":
            return vae_weights.sat_keymap(config)
    return diffusers_keymap(config)


def unused_tensors(names: Iterable[str], part: ComponentName, naming: Naming) -> list[str]:
    """The names of what SAT's files hold beside the weights: tables that are computed, and parts of training."""
    names = list(names)
    if naming != "SAT":
        return []
    if part == "vae":
        return [name for name in names if name.startswith("loss.")]
    unused = ["mixins.pos_embed.freqs_", "transformer.word_embeddings.", "transformer.position_embeddings."]
    if _FREQUENCIES not in names:  # without rotary positions (2B), the added ones are the fixed sinusoids
        unused.append(_ADDED)
    return [name for name in names if name.startswith(tuple(unused)) or "embed_tokens" in name]


def transformer_config(meta: Mapping[str, Tensor], naming: Naming, variant: Variant | None = None) -> TransformerConfig:
    """The configuration of a transformer. `variant` decides where the tensors do not.

    Raises:
        Doubt: the tensors do not tell.
    """
    shape = _reader(meta, rules_for(naming, TransformerConfig()))
    width, text_embed_dim = shape("text_in.weight")
    patch = shape("patch_in.weight")
    head_dim = shape("blocks.0.attention.norm_q.weight")[0]
    in_time = len(patch) == 2  # 1.5 has a linear layer of patches of 2x2x2, 1.0 a convolution
    sizes = {
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": _count(r"(?:transformer_blocks|transformer\.layers)\.(\d+)\.", meta),
        "in_channels": patch[1] // 8 if in_time else patch[1],
        "patch_size": 2 if in_time else patch[-1],
        "time_embed_dim": shape("time_embed.out.weight")[0],
        "text_embed_dim": text_embed_dim,
    }
    volume = sizes["patch_size"] ** 2 * (2 if in_time else 1)
    sizes["out_channels"] = shape("final.linear.weight")[0] // volume
    takes_image = sizes["in_channels"] != sizes["out_channels"]
    added = shape("learned_positions", absent=())
    family = _family(meta, naming, width, in_time, takes_image, bool(added), variant)
    config = PRESETS[family]()
    embed = shape("ofs_embed.out.weight", absent=())
    learned = config.use_rotary_positional_embeddings and bool(added)
    try:
        config = replace(
            config, **sizes, ofs_embed_dim=embed[0] if embed else None, use_learned_positional_embeddings=learned
        )
    except UserError as error:
        raise ConfigUnknown(str(error)) from error
    if learned and added[1] != config.max_text_seq_length + prod(config.base_grid):
        raise ConfigUnknown(
            f"its {added[1]} learned positions are not those of the official size, and do not tell which height, "
            "width and number of frames they are for"
        )
    return config


def vae_config(meta: Mapping[str, Tensor], naming: Naming, variant: Variant | None = None) -> VAEConfig:
    """The configuration of a VAE. Of the scale, which no tensor tells, `variant` decides.

    Raises:
        Doubt: the tensors do not tell.
    """
    levels = _count(r"encoder\.(?:down|down_blocks)\.(\d+)\.", meta)
    like = VAEConfig(block_out_channels=(32,) * max(levels, 3))
    shape = _reader(meta, rules_for(naming, like))
    widths = tuple(shape(f"encoder.levels.{i}.resnets.0.conv1.weight")[0] for i in range(levels))
    if any(width % like.norm_num_groups for width in widths):
        raise ConfigUnknown(
            f"its widths {widths} are not multiples of 32, and the number of norm groups is not in the tensors"
        )
    scales = ", ".join(f"{make().scaling_factor} in {name}" for name, make in VAE_PRESETS.items())
    if variant is None:
        raise ConfigUnknown(f"the scale of its latents is not in the tensors ({scales})")
    return replace(
        VAE_PRESETS[variant](),
        block_out_channels=widths,
        in_channels=shape("encoder.conv_in.weight")[1],
        out_channels=shape("decoder.conv_out.weight")[0],
        latent_channels=shape("decoder.conv_in.weight")[1],
        layers_per_block=_count(r"encoder\.(?:down\.0\.block|down_blocks\.0\.resnets)\.(\d+)\.", meta),
    )


def text_config(meta: Mapping[str, Tensor]) -> T5Config:
    """The configuration of a T5 encoder.

    Raises:
        Doubt: the tensors do not tell.
    """
    if "encoder.block.0.layer.1.DenseReluDense.wi.weight" in meta:
        raise ConfigUnknown("it is a T5 before version 1.1, and only the encoder of 1.1 is known here")
    shape = _reader(meta, text_weights.KEYMAP)
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


def _family(
    meta: Mapping[str, Tensor],
    naming: Naming,
    width: int,
    in_time: bool,
    takes_image: bool,
    has_added: bool,
    variant: Variant | None,
) -> Variant:
    if in_time:
        return "1.5-5b-i2v" if takes_image else "1.5-5b"
    if naming == "SAT" and has_added and _FREQUENCIES not in meta:
        return "2b"
    if takes_image:
        return "5b-i2v"
    if naming == "SAT" or has_added:
        return "5b"
    official: dict[int, Variant] = {PRESETS["2b"]().width: "2b", PRESETS["5b"]().width: "5b"}
    if variant in ("2b", "5b"):
        return variant
    if width not in official:
        raise ConfigUnknown(
            "whether its positions are those of 2b (sinusoidal) or of 5b (rotary) is not in the tensors"
        )
    return official[width]


def _reader(meta: Mapping[str, Tensor], rules: Sequence[Rule]) -> Callable[..., tuple[int, ...]]:
    """Gives the shape of the tensor of which ours of that name is made, the first one if there are several."""

    def shape(ours: str, absent: tuple[int, ...] | None = None) -> tuple[int, ...]:
        name = external_names(ours, rules)[0]
        if name in meta:
            return tuple(meta[name].shape)
        if absent is None:
            raise ConfigUnknown(f"{name}, which tells its size, is missing")
        return absent

    return shape


def _count(pattern: str, names: Iterable[str]) -> int:
    """One more than the largest number that the pattern finds at the beginning of a name."""
    return max((int(found[1]) + 1 for name in names if (found := re.match(pattern, name))), default=0)
