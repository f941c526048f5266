"""Linear layers with oneDNN on x86 CPUs and an optional fused GELU. Results equal `nn.Linear` up to rounding.

`nn.Linear` uses MKL in float32, which has no AVX-512 kernels for AMD processors. oneDNN has, and applies GELU while the
product is in cache. In bfloat16, GELU as a separate pass takes as long as a third of the product.

Axes: n tokens or any other leading dimensions; d_in, d_out inputs and outputs of the layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, library, nn
from torch.autograd.function import once_differentiable

from cogvideox.hardware.onednn import IS_X86, ONEDNN_DTYPES, onednn_linear


class Linear(nn.Linear):
    """`nn.Linear`, optionally followed by GELU (tanh approximation)."""

    def forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        return linear(x, self.weight, self.bias, gelu=gelu)


def linear(
    x: Float[Tensor, "*n d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
    *,
    gelu: bool = False,
) -> Float[Tensor, "*n d_out"]:
    """Compute x @ weight.T + bias, optionally followed by GELU (tanh approximation)."""
    if not _fits_onednn(x, weight, bias) or torch.is_autocast_enabled("cpu"):
        out = F.linear(x, weight, bias)
    elif torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in (x, weight, bias)):
        out = F.linear(x, weight, bias) if torch.compiler.is_compiling() else _Linear.apply(x, weight, bias)
    else:
        if torch.compiler.is_compiling():
            return _opaque_product(x, weight, bias, gelu)
        return onednn_linear(x, weight, bias, gelu=gelu)
    return F.gelu(out, approximate="tanh") if gelu else out


def _fits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether all tensors are plain CPU tensors of one dtype that oneDNN supports, and x is not empty."""
    return (
        IS_X86
        and x.device.type == "cpu"
        and x.dtype in ONEDNN_DTYPES
        and x.numel() > 0
        and all(
            y is None or (y.device.type == "cpu" and y.dtype == x.dtype and type(y) in (Tensor, nn.Parameter))
            for y in (x, weight, bias)
        )
    )


@library.custom_op("cogvideox::linear", mutates_args=())
def _opaque_product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """`onednn_linear` as an opaque operator, because the compiler supports oneDNN only with prepacked weights."""
    return onednn_linear(x, weight, bias, gelu=gelu)


@_opaque_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, len(weight))
        grad_x = onednn_linear(grad, weight.t()) if needs_x else None
        grad_weight = onednn_linear(rows.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None
