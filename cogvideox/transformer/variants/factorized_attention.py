"""Factorized 2D+1D attention, the baseline of 3D full attention (paper section 2.2 and figure 8).

Even blocks attend within frames (2D) and odd blocks over time (1D), as in variant 1 of Latte (Ma et al. 2024). A video
token attends to the text and to the video tokens of its frame, or of its position in all frames. Text tokens attend to
all tokens. The weights are those of full attention, which 2D attention equals for clips of one frame, and 1D attention
for clips of one token per frame.

Axes: b batch, n tokens of the merged stream, t frames of p tokens, k heads of c channels.
"""

import math
from functools import lru_cache, partial
from itertools import groupby

import torch
from einops import rearrange
from torch import Tensor

from cogvideox.transformer.attention import Attend, Heads, StreamLayout, dense_attention, packed_attention
from cogvideox.transformer.config import AttentionKind

_GROUPS = ("(b t) p k c", "(b p) t k c")
"""Video tokens that attend to each other, as rows: in even and in odd blocks."""


def attention_of_block(kind: AttentionKind, index: int, attend: Attend) -> Attend:
    """Return the attention function of block `index`, computed by the full attention function `attend`."""
    return attend if kind == "full" else _factorize(attend, _GROUPS[index % 2])


@lru_cache(maxsize=64)  # the compiler would recompile for a new function
def _factorize(attend: Attend, groups: str) -> Attend:
    # Segments are separated here, so that the packed function has nothing left to separate.
    return partial(
        _factorized_attention, attend=dense_attention if attend is packed_attention else attend, groups=groups
    )


def _factorized_attention(q: Heads, k: Heads, v: Heads, layout: StreamLayout, *, attend: Attend, groups: str) -> Heads:
    num_text, pieces = layout.spans[0], []
    equal_grids = [(grid, len([*same])) for grid, same in groupby(layout.grids)]
    sizes = [count * (num_text + math.prod(grid)) for grid, count in equal_grids]
    for (grid, count), *heads in zip(equal_grids, q.split(sizes, 1), k.split(sizes, 1), v.split(sizes, 1)):
        q_part, k_part, v_part = (rearrange(x, "b (s n) k c -> (b s) n k c", s=count) for x in heads)
        segment = StreamLayout((num_text, math.prod(grid)), grids=(grid,))
        attended = _attend_in_segment(q_part, k_part, v_part, segment, attend, groups)
        pieces.append(rearrange(attended, "(b s) n k c -> b (s n) k c", s=count))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _attend_in_segment(q: Heads, k: Heads, v: Heads, segment: StreamLayout, attend: Attend, groups: str) -> Heads:
    num_frames = segment.grids[0][0]
    text_q, video_q = q.split(segment.spans, 1)

    def grouped(x: Tensor) -> Tensor:
        return rearrange(x, f"b (t p) k c -> {groups}", t=num_frames)

    def grouped_with_text(x: Tensor) -> Tensor:
        text, video = x.split(segment.spans, 1)
        video = grouped(video)
        return torch.cat((text.repeat_interleave(len(video) // len(text), 0), video), dim=1)

    video = attend(grouped(video_q), grouped_with_text(k), grouped_with_text(v), segment)
    video = rearrange(video, f"{groups} -> b (t p) k c", b=len(q), t=num_frames)
    return torch.cat((attend(text_q, k, v, segment), video), dim=1)
