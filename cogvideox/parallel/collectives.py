"""Differentiable collectives, built on one all-to-all.

The backward pass is the all-to-all in the opposite direction, so gradients are those of the sum of the losses of all
ranks. Averaged over the ranks, as in FSDP, they are gradients of the mean loss.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup


def all_to_all(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], group: ProcessGroup) -> list[Tensor]:
    """Send `parts[r]` to rank r of the group; return the tensors received from each rank.

    Args:
        parts: tensors of one dtype, one for each rank; they may be empty.
        shapes: shapes of the tensors received from each rank.
    """
    sends = [part.numel() for part in parts]
    receives = [math.prod(shape) for shape in shapes]
    flat = _AllToAll.apply(torch.cat([part.flatten() for part in parts]), sends, receives, group)
    return [part.view(tuple(shape)) for part, shape in zip(flat.split(receives), shapes)]


def all_gather(x: Tensor, lengths: Sequence[int], dim: int, group: ProcessGroup) -> Tensor:
    """Concatenate the tensors of all ranks along `dim`; the tensor of rank r has length `lengths[r]`."""
    shapes = [(*x.shape[:dim], length, *x.shape[dim + 1 :]) for length in lengths]
    return torch.cat(all_to_all([x] * len(lengths), shapes, group), dim)


def all_gather_stack(x: Float[Tensor, "*shape"], group: ProcessGroup) -> Float[Tensor, "ranks *shape"]:
    """Stack the tensors of all ranks, which must have equal shapes."""
    return torch.stack(all_to_all([x] * group.size(), [x.shape] * group.size(), group))


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sends: list[int], receives: list[int], group: ProcessGroup) -> Tensor:
        ctx.lengths, ctx.group = (sends, receives), group
        out = x.new_empty(sum(receives))
        dist.all_to_all_single(out, x.contiguous(), receives, sends, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sends, receives = ctx.lengths
        return _AllToAll.apply(grad, receives, sends, ctx.group), None, None, None
