"""3D full attention over the merged stream of text and video, with QK norm (paper section 2.2).

Axes: b batch, n tokens (text first), d width; k heads of c channels each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.linear import Linear
from cogvideox.transformer.modulation import Spans
from cogvideox.transformer.position import rotate

Heads = Float[Tensor, "b n k c"]
Keys = Float[Tensor, "b m k c"]
"""Keys or values. Their number differs from that of the queries in factorized attention only."""

MAX_EXPLICIT_TOKENS = 1024
"""Maximum length for explicit matrix products in bfloat16 training on CPUs, where PyTorch's backward kernel is slow."""


@dataclass  # not frozen: torch.compile 2.11 guards every field of a frozen one, also `spans`
class StreamLayout:
    """Layout of the merged stream. The text and video tokens of a clip are a segment; a packed row has several."""

    spans: Spans
    """Number of tokens of each span; text and video alternate."""
    span_of_token: Int[Tensor, " n"] | None = field(default=None, compare=False)
    """For packed rows: the index of each token's span. Used in place of `spans` by compiled blocks, so that one graph
    works for all packings."""
    offsets: Int[Tensor, " s"] | None = field(default=None, compare=False)
    """For packed rows on a device with the varlen kernel: start of each segment and end of the last one, int32."""
    grids: Sequence[tuple[int, int, int]] = field(default=(), compare=False)
    """Number of video tokens of each segment in time, height and width, for factorized attention."""
    max_segment_length: int = field(default=0, compare=False)
    """For packed rows: number of tokens of the longest segment."""

    @property
    def segments(self) -> tuple[int, ...]:
        """Number of tokens of each clip, text and video."""
        return tuple(text + video for text, video in zip(self.spans[::2], self.spans[1::2]))


def packed_layout(
    num_text: int, lengths: Sequence[int], device: torch.device, *, grids: Sequence[tuple[int, int, int]] = ()
) -> StreamLayout:
    """Return the layout of a packed row of clips with `lengths` video tokens each.

    Lengths are copied to the device here, once per row instead of in every block.
    """
    layout = StreamLayout(tuple(span for length in lengths for span in (num_text, length)))
    spans = torch.tensor(layout.spans, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    index = torch.arange(len(spans), device=device).repeat_interleave(spans, output_size=sum(layout.spans))
    offsets = None
    if has_varlen_kernel(device):
        offsets = F.pad(spans.unflatten(0, (-1, 2)).sum(1).cumsum(0), (1, 0)).int()
    maximum = max(layout.segments)
    return replace(layout, span_of_token=index, offsets=offsets, grids=grids, max_segment_length=maximum)


def has_varlen_kernel(device: torch.device) -> bool:
    """Return whether the device has the varlen attention kernel: Nvidia GPUs since Ampere (sm80), and AMD GPUs."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


Attend = Callable[[Heads, Keys, Keys, StreamLayout], Heads]
"""An attention function of queries, keys, values and the layout of the stream."""


def dense_attention(q: Heads, k: Keys, v: Keys, layout: StreamLayout) -> Heads:
    """Attention between all tokens of a row, including text padding.

    No mask is used, because the official weights were trained without one.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if v.device.type == "cpu" and v.dtype == torch.bfloat16 and v.requires_grad and v.shape[2] <= MAX_EXPLICIT_TOKENS:
        scores = (q * q.shape[-1] ** -0.5).to(v.dtype) @ k.to(v.dtype).mT
        return (scores.softmax(dim=-1) @ v).transpose(1, 2)  # computed in float32, rounded once
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def packed_attention(q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
    """Attention within segments, so that packed clips have the same results as separate ones (paper section 3.1).

    No mask is used, because masked attention would cost as much as one clip with the length of the whole row. Without
    offsets in the layout, or in float32, neighboring segments of equal length are computed as a batch.
    """
    if layout.offsets is None or v.dtype not in (torch.float16, torch.bfloat16):
        segments = layout.segments
        groups = [[*group] for _, group in groupby(segments)]
        sizes = [sum(group) for group in groups]
        pieces = []
        for group, *heads in zip(groups, q.split(sizes, 1), k.split(sizes, 1), v.split(sizes, 1)):
            q_part, k_part, v_part = (rearrange(x, "b (s n) k c -> (b s) n k c", s=len(group)) for x in heads)
            attended = dense_attention(q_part, k_part, v_part, layout)
            pieces.append(rearrange(attended, "(b s) n k c -> b (s n) k c", s=len(group)))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    from torch.nn.attention.varlen import varlen_attn

    offsets, max_length = layout.offsets, layout.max_segment_length
    # Under autocast, norms return float32, and autocast does not cover this kernel.
    rows = [x.to(v.dtype).squeeze(0) for x in (q, k, v)]
    tokens = varlen_attn(rows[0], rows[1], rows[2], offsets, offsets, max_length, max_length)
    assert isinstance(tokens, Tensor)  # a tuple only if auxiliary outputs are requested
    return tokens[None]


class JointAttention(nn.Module):
    """Self-attention over the merged stream, with LayerNorm of queries and keys and optional rotary positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.norm_q = nn.LayerNorm(width // num_heads, eps=1e-6)
        self.norm_k = nn.LayerNorm(width // num_heads, eps=1e-6)
        self.out = Linear(width, width)

    def project(self, x: Float[Tensor, "b n d"]) -> tuple[Heads, Heads, Heads]:
        """Return queries, keys and values, with normalized queries and keys."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        return self.norm_q(q), self.norm_k(k), v

    def forward(
        self, x: Float[Tensor, "b n d"], rope: Float[Tensor, "n p 2"] | None, layout: StreamLayout, attend: Attend
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.project(x)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return self.out(attend(q, k, v, layout).flatten(2))
