"""The T5 encoder's weights: key map to transformers, and initialisation."""

from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.state_dict.keymap import Merge, Rename
from cogvideox.state_dict.lazy import LazyStateDict, read_transient
from cogvideox.text.encoder import RMSNorm, T5Attention, T5Encoder, T5FeedForward

# The token embedding has two names in transformers; files contain either or both.
_EMBEDDING, _ALIAS = "shared.weight", "encoder.embed_tokens.weight"
_THEIRS = "encoder.block.{n}.layer"

# For state dicts returned by `merge_shared_embedding`.
KEYMAP = [
    Rename(_EMBEDDING, "embed.weight"),
    # Shared by all layers; transformers stores it in the first.
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


@overload
def merge_shared_embedding(state: LazyStateDict) -> LazyStateDict: ...
@overload
def merge_shared_embedding(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]: ...
def merge_shared_embedding(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict with the token embedding under one name. A lazy state dict remains lazy.

    Raises:
        UserError: the embedding is there under both names with different values.
    """
    if _ALIAS not in state:
        return state
    if _EMBEDDING in state and not torch.equal(read_transient(state, _EMBEDDING), read_transient(state, _ALIAS)):
        raise UserError(f"the text encoder's weights {_EMBEDDING} and {_ALIAS} are one tensor in T5, but they differ")
    names = {name: name for name in state if name != _ALIAS}
    names.setdefault(_EMBEDDING, _ALIAS)
    return state.select(names) if isinstance(state, LazyStateDict) else {new: state[old] for new, old in names.items()}


@torch.no_grad()
def init_weights(model: T5Encoder, generator: torch.Generator) -> None:
    """Initialise the weights with the scales of T5, which keep the unscaled attention scores of order one.

    | part                                | weight                                 |
    |-------------------------------------|----------------------------------------|
    | token embedding                     | normal, variance 1                     |
    | position bias, keys, values         | normal, variance 1 / d_model           |
    | queries                             | normal, variance 1 / (d_model d_kv)    |
    | output of attention, feed-forward   | normal, variance 1 / fan-in            |
    | norms                               | 1                                      |

    The weights must be on the generator's device; a model built on the meta device needs `to_empty` first.
    """
    config = model.config
    d, d_kv, d_ff, num_heads = config.d_model, config.d_kv, config.d_ff, config.num_heads
    model.embed.weight.normal_(std=1, generator=generator)
    model.position_bias.weight.normal_(std=d**-0.5, generator=generator)
    for module in model.modules():
        match module:
            case T5Attention():
                q, k, v = module.qkv.weight.chunk(3)
                q.normal_(std=(d * d_kv) ** -0.5, generator=generator)
                k.normal_(std=d**-0.5, generator=generator)
                v.normal_(std=d**-0.5, generator=generator)
                module.out.weight.normal_(std=(num_heads * d_kv) ** -0.5, generator=generator)
            case T5FeedForward():
                module.wi.weight.normal_(std=d**-0.5, generator=generator)
                module.wo.weight.normal_(std=d_ff**-0.5, generator=generator)
            case RMSNorm():
                module.weight.fill_(1)
