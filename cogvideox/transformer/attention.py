"""Joint attention of text and video over one merged stream (paper section 2.2), with queries and keys normalised.

Axes: b batch, n tokens (text first), d width; k heads of c channels each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.linear import Linear
from cogvideox.transformer.modulation import Runs
from cogvideox.transformer.position import rotate

Heads = Float[Tensor, "b n k c"]


@dataclass(frozen=True)
class Layout:
    """How the merged stream is laid out: the lengths of its runs, text and video in turn. Each text and the video after
    it are a segment; there are several where clips are packed into one row (paper section 3.1)."""

    runs: Runs

    @property
    def segments(self) -> tuple[int, ...]:
        """Tokens of each clip."""
        return tuple(text + video for text, video in zip(self.runs[::2], self.runs[1::2]))


Attend = Callable[[Heads, Heads, Heads, Layout], Heads]
"""Softmax attention: queries, keys and values of the stream, and its layout, to the attended values."""


def dense(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """Every token attends to every token of its row, whatever the layout. Padding of the text is no exception: the
    official weights were trained without a mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def packed(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """Every token attends to its own segment: what is computed is what each clip alone would compute.

    Never through a mask over the row, which costs what a single clip of the row's length would. CUDA has a kernel for
    segments of 16-bit numbers; elsewhere they are attended one after the other, or as a batch if they are equally long.
    """
    segments = layout.segments
    if not v.is_cuda or v.dtype not in (torch.float16, torch.bfloat16):
        if len(set(segments)) == 1:  # a batch, and nothing has to be joined
            q, k, v = (rearrange(x, "b (s n) k c -> (b s) n k c", s=len(segments)) for x in (q, k, v))
            return rearrange(dense(q, k, v, layout), "(b s) n k c -> b (s n) k c", s=len(segments))
        pieces = zip(q.split(segments, 1), k.split(segments, 1), v.split(segments, 1))
        return torch.cat([dense(q, k, v, layout) for q, k, v in pieces], dim=1)

    from torch.nn.attention.varlen import varlen_attn

    ends, longest = _ends(segments * len(v), v.device), max(segments)
    # Under autocast norms answer in float32, and this kernel is not one that autocast knows.
    rows = [x.to(v.dtype).flatten(0, 1) for x in (q, k, v)]
    tokens = varlen_attn(rows[0], rows[1], rows[2], ends, ends, longest, longest)
    assert isinstance(tokens, Tensor)  # and no second answer, which was not asked for
    return tokens.view_as(v)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for training too, whoever asks first
def _ends(segments: tuple[int, ...], device: torch.device) -> Tensor:
    """Where segments begin, and where the last one ends, as kernels want it."""
    return torch.tensor([0, *accumulate(segments)], dtype=torch.int32, device=device)


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.norm_q = nn.LayerNorm(width // num_heads, eps=1e-6)
        self.norm_k = nn.LayerNorm(width // num_heads, eps=1e-6)
        self.out = Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], rope: Float[Tensor, "n p 2"] | None, layout: Layout, attend: Attend
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        q, k = self.norm_q(q), self.norm_k(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return self.out(attend(q, k, v, layout).flatten(2))
