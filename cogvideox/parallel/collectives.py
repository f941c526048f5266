"""What ranks give each other in the middle of a network, with gradients.

There is one primitive, `exchange`: every rank gives every other a tensor of its own. Its derivative is the exchange the
other way. So gradients are those of the sum of all ranks' losses, and a gradient that is averaged over the ranks, as
FSDP does it, is that of their mean: a loss that ranks compute alike counts once.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup


def exchange(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], group: ProcessGroup) -> list[Tensor]:
    """Gives `parts[r]` to rank r of the group, and returns what each of them has given.

    Args:
        parts: of one type, one for each rank; any of them may be empty.
        shapes: of what comes from each rank.
    """
    sends = [part.numel() for part in parts]
    receives = [math.prod(shape) for shape in shapes]
    flat = _Exchange.apply(torch.cat([part.flatten() for part in parts]), sends, receives, group)
    return [part.view(tuple(shape)) for part, shape in zip(flat.split(receives), shapes)]


def gather(x: Tensor, lengths: Sequence[int], dim: int, group: ProcessGroup) -> Tensor:
    """The parts of all ranks along `dim`, of which rank r has `lengths[r]`, in one piece on every rank."""
    shapes = [(*x.shape[:dim], length, *x.shape[dim + 1 :]) for length in lengths]
    return torch.cat(exchange([x] * len(lengths), shapes, group), dim)


def gather_equal(x: Float[Tensor, "*shape"], group: ProcessGroup) -> Float[Tensor, "ranks *shape"]:
    """The tensors of all ranks, which have one shape."""
    return torch.stack(exchange([x] * group.size(), [x.shape] * group.size(), group))


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sends: list[int], receives: list[int], group: ProcessGroup) -> Tensor:
        ctx.lengths, ctx.group = (sends, receives), group
        out = x.new_empty(sum(receives))
        dist.all_to_all_single(out, x.contiguous(), receives, sends, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sends, receives = ctx.lengths
        return _Exchange.apply(grad, receives, sends, ctx.group), None, None, None
