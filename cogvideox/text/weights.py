"""transformers' names of the T5 encoder's weights, and ours."""

from torch import Tensor

from cogvideox.weights import keymap
from cogvideox.weights.keymap import Merge, Rename

_THEIRS = "encoder.block.{n}.layer"

KEYMAP = [
    Rename("shared.weight", "embed.weight"),
    # Learned once, kept by transformers inside the first layer.
    Rename("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "position_bias.weight"),
    Rename(f"{_THEIRS}.0.layer_norm.weight", "blocks.{n}.attention_norm.weight"),
    Merge(
        tuple(f"{_THEIRS}.0.SelfAttention.{part}.weight" for part in "qkv"), "blocks.{n}.attention.qkv.weight", dim=0
    ),
    Rename(f"{_THEIRS}.0.SelfAttention.o.weight", "blocks.{n}.attention.out.weight"),
    Rename(f"{_THEIRS}.1.layer_norm.weight", "blocks.{n}.mlp_norm.weight"),
    Merge(
        tuple(f"{_THEIRS}.1.DenseReluDense.{part}.weight" for part in ("wi_0", "wi_1")),
        "blocks.{n}.mlp.wi.weight",
        dim=0,
    ),
    Rename(f"{_THEIRS}.1.DenseReluDense.wo.weight", "blocks.{n}.mlp.wo.weight"),
    Rename("encoder.final_layer_norm.weight", "norm.weight"),
]

# The token embedding under its second name: files hold one of the two, or both.
_ALIAS = "encoder.embed_tokens.weight"


def to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and fuse the weights of a `T5EncoderModel`. A name that belongs to no weight passes through unchanged."""
    state = dict(state)
    if _ALIAS in state:
        alias = state.pop(_ALIAS)
        state.setdefault("shared.weight", alias)
    return keymap.to_ours(state, KEYMAP)


def to_theirs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`; the token embedding is written once, as `shared.weight`."""
    return keymap.to_theirs(state, KEYMAP)
