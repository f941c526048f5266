"""Invertible keymap (`state_dict.key_rules`) of the T5 encoder's weights in Hugging Face transformers checkpoints."""

from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.state_dict.key_rules import Merge, Rename
from cogvideox.state_dict.lazy import LazyStateDict, read_transient

# The two names of the token embedding in transformers; a file contains one or both.
_EMBEDDING, _ALIAS = "shared.weight", "encoder.embed_tokens.weight"
_EXTERNAL = "encoder.block.{n}.layer"

# The rules between transformers' names and the names of this package, after `merge_shared_embedding`.
TRANSFORMERS_KEYMAP = [
    Rename(_EMBEDDING, "embed.weight"),
    # All layers share one bias; transformers stores it in the first layer.
    Rename("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "position_bias.weight"),
    Rename(f"{_EXTERNAL}.0.layer_norm.weight", "blocks.{n}.attention_norm.weight"),
    Merge(
        tuple(f"{_EXTERNAL}.0.SelfAttention.{part}.weight" for part in "qkv"), "blocks.{n}.attention.qkv.weight", dim=0
    ),
    Rename(f"{_EXTERNAL}.0.SelfAttention.o.weight", "blocks.{n}.attention.out.weight"),
    Rename(f"{_EXTERNAL}.1.layer_norm.weight", "blocks.{n}.mlp_norm.weight"),
    Merge(
        tuple(f"{_EXTERNAL}.1.DenseReluDense.{part}.weight" for part in ("wi_0", "wi_1")),
        "blocks.{n}.mlp.wi.weight",
        dim=0,
    ),
    Rename(f"{_EXTERNAL}.1.DenseReluDense.wo.weight", "blocks.{n}.mlp.wo.weight"),
    Rename("encoder.final_layer_norm.weight", "norm.weight"),
]


@overload
def merge_shared_embedding(state: LazyStateDict) -> LazyStateDict: ...
@overload
def merge_shared_embedding(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]: ...
def merge_shared_embedding(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict with the token embedding under one name. A lazy state dict stays lazy.

    Raises:
        UserError: the state dict has both names, with different values.
    """
    if _ALIAS not in state:
        return state
    if _EMBEDDING in state and not torch.equal(read_transient(state, _EMBEDDING), read_transient(state, _ALIAS)):
        raise UserError(f"the text encoder's {_EMBEDDING} and {_ALIAS} must be the same tensor, but they differ")
    names = {name: name for name in state if name != _ALIAS}
    names.setdefault(_EMBEDDING, _ALIAS)
    return state.select(names) if isinstance(state, LazyStateDict) else {new: state[old] for new, old in names.items()}
