"""Names of the transformer's weights in checkpoints of diffusers and SAT: invertible keymaps (`state_dict.key_rules`).

Queries, keys and values are fused in one tensor here and in SAT. diffusers has three tensors, which are merged when
loading and split when saving. The rows of the modulation and the shape of the patch projection also differ.
"""

from cogvideox.state_dict.key_rules import Interleave, Merge, Rename, Reshape, Rule
from cogvideox.transformer.config import TransformerConfig

_BLOCK = "transformer_blocks.{n}"
_SAT_LAYER = "transformer.layers.{n}"

# Tensors that are only renamed: name in this package, in diffusers and in SAT.
_NAMES = [
    ("patch_in.bias", "patch_embed.proj.bias", "mixins.patch_embed.proj.bias"),
    ("text_in.*", "patch_embed.text_proj.*", "mixins.patch_embed.text_proj.*"),
    ("learned_positions", "patch_embed.pos_embedding", "mixins.pos_embed.pos_embedding"),
    ("time_embed.hidden.*", "time_embedding.linear_1.*", "time_embed.0.*"),
    ("time_embed.out.*", "time_embedding.linear_2.*", "time_embed.2.*"),
    ("ofs_embed.hidden.*", "ofs_embedding.linear_1.*", "ofs_embed.0.*"),
    ("ofs_embed.out.*", "ofs_embedding.linear_2.*", "ofs_embed.2.*"),
    ("blocks.{n}.norm1.*", f"{_BLOCK}.norm1.norm.*", f"{_SAT_LAYER}.input_layernorm.*"),
    ("blocks.{n}.attention.norm_q.*", f"{_BLOCK}.attn1.norm_q.*", "mixins.adaln_layer.query_layernorm_list.{n}.*"),
    ("blocks.{n}.attention.norm_k.*", f"{_BLOCK}.attn1.norm_k.*", "mixins.adaln_layer.key_layernorm_list.{n}.*"),
    ("blocks.{n}.attention.out.*", f"{_BLOCK}.attn1.to_out.0.*", f"{_SAT_LAYER}.attention.dense.*"),
    ("blocks.{n}.norm2.*", f"{_BLOCK}.norm2.norm.*", f"{_SAT_LAYER}.post_attention_layernorm.*"),
    ("blocks.{n}.mlp.hidden.*", f"{_BLOCK}.ff.net.0.proj.*", f"{_SAT_LAYER}.mlp.dense_h_to_4h.*"),
    ("blocks.{n}.mlp.out.*", f"{_BLOCK}.ff.net.2.*", f"{_SAT_LAYER}.mlp.dense_4h_to_h.*"),
    ("final.norm1.*", "norm_final.*", "transformer.final_layernorm.*"),
    ("final.modulation.*", "norm_out.linear.*", "mixins.final_layer.adaLN_modulation.1.*"),
    ("final.norm2.*", "norm_out.norm.*", "mixins.final_layer.norm_final.*"),
    ("final.linear.*", "proj_out.*", "mixins.final_layer.linear.*"),
]


def diffusers_keymap(config: TransformerConfig) -> list[Rule]:
    """Return the rules between diffusers' names and the names of this package."""
    return [
        *(Rename(external, internal) for internal, external, _ in _NAMES),
        _patch_rule("patch_embed.proj.weight", config),
        _qkv_rule(),
        _modulation_rule(config),
        *(_text_stream_rules() if config.separate_weights == "all" else ()),
    ]


def sat_keymap(config: TransformerConfig) -> list[Rule]:
    """Return the rules between the names of SAT, the original code, and the names of this package."""
    return [
        *(Rename(external, internal) for internal, _, external in _NAMES),
        _patch_rule("mixins.patch_embed.proj.weight", config),
        Rename(f"{_SAT_LAYER}.attention.query_key_value.*", "blocks.{n}.attention.qkv.*"),
        _sat_modulation_rule(),
    ]


def _qkv_rule(stream: str = "") -> Rule:
    return Merge([f"{_BLOCK}{stream}.attn1.to_{part}.*" for part in "qkv"], f"blocks.{{n}}{stream}.attention.qkv.*")


def _text_stream_rules() -> list[Rule]:
    """Return the rules for the text stream of separate streams, which diffusers does not have."""
    names = [(internal, external) for internal, external, _ in _NAMES if internal.startswith("blocks.{n}.")]
    renames = [
        Rename(external.replace(_BLOCK, f"{_BLOCK}.text"), internal.replace("blocks.{n}", "blocks.{n}.text"))
        for internal, external in names
    ]
    return [*renames, _qkv_rule(".text")]


def _modulation_rule(config: TransformerConfig) -> Rule:
    """Return the rule for the modulation in diffusers, which has one matrix for attention and one for the MLP.

    Each has rows for shift, scale and gate of video, then of text. Here, a single matrix has rows for the shift of
    attention for text, then for video, then for its scale, and so on: text before video, as in the merged stream. A
    modulation for both has the same rows once.
    """
    first_parts = (3, 0)[-config.num_modulations :]  # of text and video
    order = [(layer, first + part) for layer in (0, 1) for part in range(3) for first in first_parts]
    external = [f"{_BLOCK}.norm{layer}.linear.*" for layer in (1, 2)]
    return Interleave(external, "blocks.{n}.modulation.*", order, num_chunks=3 * config.num_modulations)


def _sat_modulation_rule() -> Rule:
    """Return the rule for the modulation in SAT: one matrix with shifts, scales and gates of video, then of text."""
    video, text = 0, 6
    order = [(0, modality + 3 * layer + part) for layer in (0, 1) for part in range(3) for modality in (text, video)]
    return Interleave(["mixins.adaln_layer.adaLN_modulations.{n}.1.*"], "blocks.{n}.modulation.*", order, num_chunks=12)


def _patch_rule(external: str, config: TransformerConfig) -> Rule:
    internal = "patch_in.weight"
    if config.patch_size_t is not None:
        return Rename(external, internal)
    # Checkpoints of 1.0 have a convolution with stride = kernel size, which is a linear layer on patches.
    kernel = (config.in_channels, config.patch_size, config.patch_size)
    return Reshape(external, internal, lambda weight: weight.flatten(1), lambda weight: weight.unflatten(1, kernel))
