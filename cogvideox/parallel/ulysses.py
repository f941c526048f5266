"""Sequence parallelism of the transformer by DeepSpeed-Ulysses (arXiv 2309.14509).

Each rank has a contiguous part of the merged stream and computes all token-wise layers on it. For attention, an
all-to-all sends each rank all tokens of some of the heads, and a second one returns the results.

    apply_ulysses(transformer, ranks.sequence)

Inputs and outputs are complete on every rank. Gradients are those of the sum of the losses of all ranks, which are
equal, so they have to be averaged over the ranks, as FSDP does.

Axes: b batch, n tokens of the stream, k heads of c channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from cogvideox.errors import UserError
from cogvideox.parallel.collectives import all_gather, all_to_all
from cogvideox.transformer.attention import Attend, Heads, StreamLayout
from cogvideox.transformer.model import Transformer


@dataclass(kw_only=True)
class LocalLayout(StreamLayout):
    """The layout of one rank's part of the stream; spans of other ranks are empty."""

    full: StreamLayout
    """Layout of the whole stream."""
    lengths: tuple[int, ...]
    """Number of tokens of each rank."""


@dataclass(frozen=True)
class Ulysses:
    """Attention over the tokens of all ranks, as an `Attend` for the blocks of one rank."""

    group: ProcessGroup
    attend: Attend
    """Attention function for the whole stream and some of the heads."""

    def __call__(self, q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
        assert isinstance(layout, LocalLayout)
        ranks, lengths = self.group.size(), layout.lengths
        # One all-to-all for queries, keys and values.
        qkv = torch.stack((q, k, v))
        parts = qkv.chunk(ranks, dim=3)
        shapes = [(3, len(q), length, *parts[0].shape[3:]) for length in lengths]
        q, k, v = torch.cat(all_to_all(parts, shapes, self.group), dim=2).unbind()
        x = self.attend(q, k, v, layout.full)
        parts = x.split(lengths, dim=1)
        return torch.cat(all_to_all(parts, [parts[self.group.rank()].shape] * ranks, self.group), dim=2)


def apply_ulysses(model: Transformer, group: ProcessGroup) -> Callable[[], None]:
    """Split the tokens of every call of the transformer over the ranks, with hooks on its blocks.

    Returns:
        A function that removes the hooks.

    Raises:
        UserError: the number of ranks does not divide the number of heads.
    """
    check_heads(model.config.num_attention_heads, group.size())
    if group.size() == 1:
        return lambda: None
    ulysses = lru_cache(lambda attend: Ulysses(group, attend))  # a new object would make the compiler recompile
    rank, first, last = group.rank(), model.blocks[0], model.blocks[-1]

    def enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        (x,) = args
        local = local_layout(kwargs["layout"], rank, group.size())
        if block is first:
            x = x.split(local.lengths, dim=1)[rank]
        rope = kwargs["rope"]
        if rope is not None:
            rope = rope.split(local.lengths)[rank]
        return (x,), kwargs | {"rope": rope, "layout": local, "attend": ulysses(kwargs["attend"])}

    def leave(
        block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], x: Float[Tensor, "b _n d"]
    ) -> Float[Tensor, "b n d"]:
        return all_gather(x, kwargs["layout"].lengths, 1, group)

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in model.blocks]
    hooks.append(last.register_forward_hook(leave, with_kwargs=True))

    def remove_hooks() -> None:
        for hook in hooks:
            hook.remove()

    return remove_hooks


def check_heads(num_heads: int, num_ranks: int) -> None:
    """Check that the number of ranks divides the number of heads.

    Raises:
        UserError: it does not; the message lists valid numbers.
    """
    if num_heads % num_ranks:
        valid = ", ".join(str(n) for n in range(1, num_heads + 1) if num_heads % n == 0)
        raise UserError(
            f"{num_ranks} processes cannot share the {num_heads} attention heads of this model equally; "
            f"valid numbers: {valid}"
        )


def local_layout(layout: StreamLayout, rank: int, num_ranks: int) -> LocalLayout:
    """Return the layout of one rank's part of the stream. Numbers of tokens differ by at most one between ranks."""
    total = sum(layout.spans)
    edges = [total * r // num_ranks for r in range(num_ranks + 1)]
    lengths = tuple(end - start for start, end in pairwise(edges))
    begin, end = edges[rank], edges[rank + 1]
    ends = accumulate(layout.spans)
    spans = tuple(max(min(stop, end) - max(stop - n, begin), 0) for n, stop in zip(layout.spans, ends))
    index = None if layout.span_of_token is None else layout.span_of_token[begin:end]
    return LocalLayout(spans, index, full=layout, lengths=lengths)
