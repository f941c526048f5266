"""Joint attention of text and video over one merged stream (paper section 2.2), with queries and keys normalised.

Axes: b batch, n tokens (text first), d width; k heads of c channels each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.linear import Linear
from cogvideox.transformer.modulation import Spans
from cogvideox.transformer.position import rotate

Heads = Float[Tensor, "b n k c"]


@dataclass  # not frozen: torch.compile 2.11 guards every field of a frozen one, also `spans`
class StreamLayout:
    """The lengths of the runs of the merged stream, text and video in turn. Each text and the video after it are a
    segment; several clips packed into one row are several segments (paper section 3.1)."""

    spans: Spans
    span_of_token: Int[Tensor, " n"] | None = field(default=None, compare=False)
    """Of a packed row: the span of each token. Compiled blocks read it instead of `spans`, so that one graph
    serves all packings."""
    offsets: Int[Tensor, " s"] | None = field(default=None, compare=False)
    """Of a packed row, on a device with the varlen kernel: start of each segment and end of the last, int32."""
    longest: int = field(default=0, compare=False)
    """Of a packed row: the most tokens of a segment."""

    @property
    def segments(self) -> tuple[int, ...]:
        """Tokens of each clip."""
        return tuple(text + video for text, video in zip(self.spans[::2], self.spans[1::2]))


def packed_layout(num_text: int, lengths: Sequence[int], device: torch.device) -> StreamLayout:
    """The layout of a packed row of clips with `lengths` video tokens each.

    Lengths are copied to the device here, once for each row, and not in every block.
    """
    layout = StreamLayout(tuple(run for length in lengths for run in (num_text, length)))
    spans = torch.tensor(layout.spans, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    index = torch.arange(len(spans), device=device).repeat_interleave(spans, output_size=sum(layout.spans))
    offsets = None
    if has_varlen_kernel(device):
        offsets = F.pad(spans.unflatten(0, (-1, 2)).sum(1).cumsum(0), (1, 0)).int()
    return replace(layout, span_of_token=index, offsets=offsets, longest=max(layout.segments))


def has_varlen_kernel(device: torch.device) -> bool:
    """Whether the device has a kernel for attention within segments: Nvidia GPUs from Ampere on (sm80), and AMD's."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


Attend = Callable[[Heads, Heads, Heads, StreamLayout], Heads]
"""Softmax attention: queries, keys and values of the stream, and its layout, to the attended values."""


def dense_attention(q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
    """Every token attends to every token of its row, whatever the layout. Padding of the text is no exception: the
    official weights were trained without a mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def packed_attention(q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
    """Every token attends to its own segment: what is computed is what each clip alone would compute.

    Never through a mask over the row, which costs what a single clip of the row's length would. Where the layout has no
    offsets, or for float32, segments are attended one after the other, or as a batch if they are equally long.
    """
    if layout.offsets is None or v.dtype not in (torch.float16, torch.bfloat16):
        segments = layout.segments
        if len(set(segments)) == 1:  # a batch, and nothing has to be joined
            q, k, v = (rearrange(x, "b (s n) k c -> (b s) n k c", s=len(segments)) for x in (q, k, v))
            return rearrange(dense_attention(q, k, v, layout), "(b s) n k c -> b (s n) k c", s=len(segments))
        pieces = zip(q.split(segments, 1), k.split(segments, 1), v.split(segments, 1))
        return torch.cat([dense_attention(q, k, v, layout) for q, k, v in pieces], dim=1)

    from torch.nn.attention.varlen import varlen_attn

    offsets, longest = layout.offsets, layout.longest
    # Under autocast, norms return float32, and autocast does not know this kernel.
    rows = [x.to(v.dtype).squeeze(0) for x in (q, k, v)]
    tokens = varlen_attn(rows[0], rows[1], rows[2], offsets, offsets, longest, longest)
    assert isinstance(tokens, Tensor)  # a tuple only if auxiliary outputs are requested
    return tokens[None]


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.norm_q = nn.LayerNorm(width // num_heads, eps=1e-6)
        self.norm_k = nn.LayerNorm(width // num_heads, eps=1e-6)
        self.out = Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], rope: Float[Tensor, "n p 2"] | None, layout: StreamLayout, attend: Attend
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        q, k = self.norm_q(q), self.norm_k(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return self.out(attend(q, k, v, layout).flatten(2))
