"""Linear layers with oneDNN on x86 CPUs and an optional fused GELU. Results equal `nn.Linear` up to rounding.

`nn.Linear` uses MKL, which has no AVX-512 kernels for AMD processors. oneDNN has, and applies GELU while the product is
in cache.

Axes: n tokens or any other leading dimensions; d_in, d_out inputs and outputs of the layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, library, nn
from torch.autograd.function import once_differentiable

_X86 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


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
    if not (_X86 and _is_plain_float32(x) and _is_plain_float32(weight)) or torch.is_autocast_enabled("cpu"):
        out = F.linear(x, weight, bias)
    elif torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in (x, weight, bias)):
        out = F.linear(x, weight, bias) if torch.compiler.is_compiling() else _Linear.apply(x, weight, bias)
    else:
        return (_opaque_product if torch.compiler.is_compiling() else _product)(x, weight, bias, gelu)
    return F.gelu(out, approximate="tanh") if gelu else out


def _is_plain_float32(x: Tensor) -> bool:
    """Return whether x is a non-empty float32 CPU tensor and not an instance of a tensor subclass."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and type(x) in (Tensor, nn.Parameter) and x.numel() > 0


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    activation = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)


@library.custom_op("cogvideox::linear", mutates_args=())
def _opaque_product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """`_product` as an opaque operator, because the compiler supports oneDNN only with prepacked weights."""
    return _product(x, weight, bias, gelu)


@_opaque_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, len(weight))
        grad_x = _product(grad, weight.t(), None) if needs_x else None
        grad_weight = _product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None) if needs_weight else None
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None
