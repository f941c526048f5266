"""Expert adaptive LayerNorm (paper section 2.2): text and video share all weights except the modulation.

Each modality has its own shift, scale and gate for attention and for the MLP, which depend on the timestep. The merged
stream consists of spans of one modality; all tokens of a span have the same shift, scale and gate.

Axes: b batch, n tokens, r spans, d width, s timesteps (or batch elements), e time embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Spans = tuple[int, ...]
"""Number of tokens of each span of one modality, in order: (text, video), or more in packed rows."""

SpanOfToken = Int[Tensor, " n"]
"""Index of each token's span."""
Stream = Float[Tensor, "b n d"]
Table = Float[Tensor, "#b r d"]


class BlockModulation(NamedTuple):
    """Modulation of a block: tensors [s 2 d], text before video. Shifts and scales are folded (`AdaptiveNorm.fold`)."""

    attention_shift: Table
    attention_scale: Table
    attention_gate: Table
    mlp_shift: Table
    mlp_scale: Table
    mlp_gate: Table


class FinalModulation(NamedTuple):
    """Modulation before the last projection: folded tensors [s 1 d], for video only."""

    shift: Table
    scale: Table


@dataclass(frozen=True)
class Modulation:
    """Modulation of the whole transformer at one or several timesteps. It depends on the weights and timesteps only."""

    blocks: tuple[BlockModulation, ...]
    final: FinalModulation

    def __len__(self) -> int:
        """Number of timesteps."""
        return len(self.final.shift)

    def __getitem__(self, step: int) -> "Modulation":
        """Return the modulation of one timestep, shared by all samples of a batch."""
        if not -len(self) <= step < len(self):
            raise IndexError(f"step {step} of a modulation for {len(self)} timesteps")
        row = slice(step % len(self), step % len(self) + 1)
        blocks = tuple(BlockModulation._make(table[row] for table in block) for block in self.blocks)
        return Modulation(blocks, FinalModulation._make(table[row] for table in self.final))

    def flat(self) -> tuple[Tensor, ...]:
        """Return all tensors in one tuple: those of the blocks in order, then those of the final layer."""
        return tuple(table for part in (*self.blocks, self.final) for table in part)

    @classmethod
    def from_flat(cls, tables: Sequence[Tensor]) -> "Modulation":
        """Build the modulation from `flat()`."""
        size = len(BlockModulation._fields)
        blocks, final = tables[:-2], tables[-2:]
        starts = range(0, len(blocks), size)
        return cls(tuple(BlockModulation(*blocks[i : i + size]) for i in starts), FinalModulation(*final))


class AdaptiveNorm(nn.LayerNorm):
    """LayerNorm(x) * (1 + scale) + shift, with one shift and scale for each span.

    The norm's weight and bias are first folded into shift and scale, so that the stream is scaled once instead of
    twice, and their gradients need no separate sums over tokens.
    """

    def fold(self, shift: Table, scale: Table) -> tuple[Table, Table]:
        """Rewrite (x̂ * weight + bias) * (1 + scale) + shift as x̂ * scale' + shift' and return (shift', scale')."""
        return torch.addcmul(self.bias + shift, self.bias, scale), torch.addcmul(self.weight, self.weight, scale)

    def forward(self, x: Stream, shift: Table, scale: Table, spans: Spans | SpanOfToken) -> Stream:
        """Normalize and modulate with *folded* shift and scale. In compiled code, `spans` may be a `SpanOfToken`."""
        normalized = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        return _multiply_add(shift, 1, normalized, scale, spans)


def add_gated(x: Stream, update: Stream, gate: Table, spans: Spans | SpanOfToken) -> Stream:
    """Return x + gate * update, with one gate per span."""
    return _multiply_add(x, spans, update, gate, spans)


def _multiply_add(
    base: Tensor, base_spans: int | Spans | SpanOfToken, x: Stream, scale: Table, spans: Spans | SpanOfToken
) -> Stream:
    """Return base + x * scale. `base` is a stream (`base_spans` = `spans`) or has a row per span (`base_spans` = 1)."""
    if isinstance(spans, Tensor):
        base = base if base_spans is spans else _Gather.apply(base, spans)
        return torch.addcmul(base, x, _Gather.apply(scale, spans))
    if torch.compiler.is_compiling():
        pieces = zip(base.split(base_spans, 1), x.split(spans, 1), scale.split(1, 1))
        return torch.cat([torch.addcmul(b, x, s) for b, x, s in pieces], dim=1)
    batch = len(x)
    return _MultiplyAdd.apply(base.expand(batch, -1, -1), base_spans, x, scale.expand(batch, -1, -1), spans)


class _MultiplyAdd(torch.autograd.Function):
    """`_multiply_add` without copies: each span is written directly into the result, forward and backward.

    Concatenating the spans would be an additional pass over the stream in each direction. The compiler fuses this pass
    but does not support writing into a part of a tensor.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, base_spans: int | Spans, x: Tensor, scale: Tensor, spans: Spans) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.base_spans, ctx.spans = base_spans, spans
        dtype = torch.promote_types(torch.promote_types(base.dtype, x.dtype), scale.dtype)
        out = torch.empty_like(x, dtype=dtype)
        for o, b, y, s in zip(out.split(spans, 1), base.split(base_spans, 1), x.split(spans, 1), scale.split(1, 1)):
            torch.addcmul(b, y, s, out=o)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        needs_base, _, needs_x, needs_scale, _ = ctx.needs_input_grad
        pieces = grad.split(ctx.spans, 1)
        grad_base = grad_x = grad_scale = None
        if needs_base:
            grad_base = grad if ctx.base_spans == ctx.spans else torch.stack([g.sum(1) for g in pieces], 1)
        if needs_x:
            grad_x = torch.empty_like(x)
            for o, g, s in zip(grad_x.split(ctx.spans, 1), pieces, scale.split(1, 1)):
                torch.mul(g, s, out=o)
        if needs_scale:
            grad_scale = torch.stack([(g * y).sum(1) for g, y in zip(pieces, x.split(ctx.spans, 1))], 1)
        return grad_base, None, grad_x, grad_scale, None


class _Gather(torch.autograd.Function):
    """Look up the vector of each token's span.

    The gradient is a matrix product, because index-add on a GPU would serialize the tokens of a span and add them in
    random order.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, span_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(span_of_token)
        ctx.num_spans = table.shape[1]
        return table[:, span_of_token]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (span_of_token,) = ctx.saved_tensors
        spans = torch.arange(ctx.num_spans, device=grad.device)
        return (span_of_token == spans[:, None]).to(grad.dtype) @ grad, None
