"""Gradient clipping for sharded and unsharded parameters."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the norm of sharded or unsharded gradients to `max_norm`; return the total norm before clipping."""
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
