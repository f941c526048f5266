"""The transformer with its tokens cut over ranks, and attention with its heads cut over them (DeepSpeed-Ulysses, arXiv
2309.14509).

Every rank has a stretch of the merged stream. All that works token by token is computed where the token is. For
attention the ranks exchange: each gets some heads of all tokens, attends as one process would, and gives back.

    apply_ulysses(transformer, ranks.sequence)     # from here on, its blocks share each call's tokens

Inputs and the result are whole on every rank, and the gradients those of the sum of all ranks' losses, which are then
the same: average them over the ranks (FSDP does), and each sample counts once.

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
from cogvideox.parallel.collectives import exchange, gather
from cogvideox.transformer.attention import Attend, Heads, StreamLayout
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.modulation import Spans


@dataclass(kw_only=True)
class LocalLayout(StreamLayout):
    """The runs of one rank's stretch, some of them perhaps empty, in the layout of the whole stream."""

    whole: StreamLayout
    lengths: Spans
    """Tokens of each rank."""


@dataclass(frozen=True)
class Ulysses:
    """Attention between the tokens of all ranks, as an `Attend` for the blocks of one: `inside` sees the whole sequence
    in its whole layout, and some of the heads."""

    group: ProcessGroup
    inside: Attend

    def __call__(self, q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
        assert isinstance(layout, LocalLayout)
        ranks, lengths = self.group.size(), layout.lengths
        # Queries, keys and values travel together.
        qkv = torch.stack((q, k, v))
        parts = qkv.chunk(ranks, dim=3)
        shapes = [(3, len(q), length, *parts[0].shape[3:]) for length in lengths]
        q, k, v = torch.cat(exchange(parts, shapes, self.group), dim=2).unbind()
        x = self.inside(q, k, v, layout.whole)
        parts = x.split(lengths, dim=1)
        return torch.cat(exchange(parts, [parts[self.group.rank()].shape] * ranks, self.group), dim=2)


def apply_ulysses(model: Transformer, group: ProcessGroup) -> Callable[[], None]:
    """From here on the blocks of a transformer share the tokens of each call; returns what undoes it.

    Raises:
        UserError: the heads do not divide among the ranks.
    """
    check_heads(model.config.num_attention_heads, group.size())
    if group.size() == 1:
        return lambda: None
    ulysses = lru_cache(lambda attend: Ulysses(group, attend))  # the same object each time, for the compiler
    rank, first, last = group.rank(), model.blocks[0], model.blocks[-1]

    def enter(block: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        (x,) = args
        local = local_layout(given["layout"], rank, group.size())
        if block is first:
            x = x.split(local.lengths, dim=1)[rank]
        rope = given["rope"]
        if rope is not None:
            rope = rope.split(local.lengths)[rank]
        return (x,), given | {"rope": rope, "layout": local, "attend": ulysses(given["attend"])}

    def leave(
        block: nn.Module, args: tuple[Any, ...], given: dict[str, Any], x: Float[Tensor, "b _n d"]
    ) -> Float[Tensor, "b n d"]:
        return gather(x, given["layout"].lengths, 1, group)

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in model.blocks]
    hooks.append(last.register_forward_hook(leave, with_kwargs=True))

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo


def check_heads(num_heads: int, num_ranks: int) -> None:
    """Whether every rank gets the same number of heads.

    Raises:
        UserError: it does not; the message has the numbers that would do.
    """
    if num_heads % num_ranks:
        legal = ", ".join(str(n) for n in range(1, num_heads + 1) if num_heads % n == 0)
        raise UserError(
            f"{num_ranks} processes cannot share the {num_heads} attention heads of this model, of which each takes as "
            f"many; {legal} can"
        )


def local_layout(layout: StreamLayout, rank: int, num_ranks: int) -> LocalLayout:
    """The tokens of one rank: each gets as many, up to one."""
    total = sum(layout.spans)
    edges = [total * r // num_ranks for r in range(num_ranks + 1)]
    lengths = tuple(end - start for start, end in pairwise(edges))
    begin, end = edges[rank], edges[rank + 1]
    ends = accumulate(layout.spans)
    spans = tuple(max(min(stop, end) - max(stop - n, begin), 0) for n, stop in zip(layout.spans, ends))
    index = None if layout.span_of_token is None else layout.span_of_token[begin:end]
    return LocalLayout(spans, index, whole=layout, lengths=lengths)
