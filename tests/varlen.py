"""A CPU implementation of `torch_attn::_varlen_attn`, which PyTorch has only for GPUs, to test packed attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from cogvideox.transformer import attention

_calls: list[Tensor] = []


def _segments(offsets: Tensor, *tokens: Tensor) -> Iterator[list[Tensor]]:
    for start, end in pairwise(offsets.tolist()):
        yield [x[start:end].transpose(0, 1).float() for x in tokens]


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)


def _concatenate(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts, dim=1).transpose(0, 1).to(like.dtype).contiguous()


def _forward(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    _calls.append(offsets)
    out = [_weights(q, k) @ v for q, k, v in _segments(offsets, q, k, v)]
    return _concatenate(out, v), torch.zeros(v.shape[1], len(v)), torch.zeros(2, dtype=torch.uint64)


def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, offsets: Tensor, *_: Any) -> Any:
    # Kernels run below autograd, so the derivative is explicit.
    grads: list[tuple[Tensor, ...]] = []
    for segment_grad, segment_q, segment_k, segment_v in _segments(offsets, grad, q, k, v):
        weights = _weights(segment_q, segment_k)
        weights_grad = segment_grad @ segment_v.mT
        scores_grad = weights * (weights_grad - (weights_grad * weights).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        grads.append((scores_grad @ segment_k, scores_grad.mT @ segment_q, weights.mT @ segment_grad))
    return tuple(_concatenate(list(parts), v) for parts in zip(*grads))


varlen._varlen_attn.register_kernel("cpu")(_forward)
varlen._varlen_attn_backward.register_kernel("cpu")(_backward)


@contextmanager
def varlen_on_cpu() -> Iterator[list[Tensor]]:
    """Make attention use the varlen kernel on the CPU; yields the offsets of each forward call."""
    _calls.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "has_varlen_kernel", lambda device: True)
        yield _calls
