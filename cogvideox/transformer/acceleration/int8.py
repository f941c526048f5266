"""Int8 linear layers in the blocks: an approximation for CPUs with 8-bit dot products (VNNI, AMX).

Weights are rounded once, with a scale for each row; activations are rounded at each call, with a scale for each token.
Products are accumulated in int32, which is exact. The layers are those of `float8`.

CPUs without such instructions multiply the rounded values in the original dtype, which is slower but has the same
error.

Axes: n tokens or any other leading dimensions; d_in, d_out inputs and outputs of the layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from cogvideox.linear import linear
from cogvideox.transformer.acceleration.float8 import replace_linears
from cogvideox.transformer.lora.layers import LoRALinear
from cogvideox.transformer.model import Transformer

_MAX = 127
_BLOCK = 512
"""Number of tokens whose int32 products are scaled at once, so that they stay in the cache."""


def to_int8(model: Transformer) -> None:
    """Replace linear layers of the blocks with int8 layers, in place; see `float8.to_float8`.

    Raises:
        UserError: the weights of the blocks are offloaded.
    """
    replace_linears(model, Int8Linear, "int8_compute")


def is_int8(model: Transformer) -> bool:
    """Return whether `to_int8` was applied to the model."""
    return any(isinstance(layer, Int8Linear) for layer in model.modules())


def _has_int8_arithmetic() -> bool:
    checks: Any = torch.cpu
    names = ("_is_vnni_supported", "_is_avx512_vnni_supported", "_is_amx_tile_supported")
    return torch.backends.mkldnn.is_available() and any(
        getattr(checks, name)() for name in names if hasattr(checks, name)
    )


HAS_INT8_ARITHMETIC = _has_int8_arithmetic()
"""Whether the CPU has 8-bit dot products that PyTorch uses; a constant, because `torch.compile` cannot trace checks."""


class Int8Linear(LoRALinear):
    """A linear layer with an int8 weight and optional LoRAs."""

    can_merge = False

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        weight, scale = round_rows(layer.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        if isinstance(layer, LoRALinear):
            self.loras = layer.loras

    def base_forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        rows = x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and HAS_INT8_ARITHMETIC and len(rows):
            out = rows.new_empty(len(rows), self.out_features)
            weight, scale = self.weight.t(), self.scale.t()
            for block, result in zip(rows.split(_BLOCK), out.split(_BLOCK)):
                values, token_scale = round_rows(block)
                products = torch._int_mm(values, weight).float().mul_(token_scale).mul_(scale)
                result.copy_(products if self.bias is None else products.add_(self.bias))
        else:
            values, token_scale = round_rows(rows)
            dequantized = (values.float() * token_scale).to(x.dtype)
            out = linear(dequantized, (self.weight.float() * self.scale).to(x.dtype), self.bias)
        out = F.gelu(out, approximate="tanh") if gelu else out
        return out.unflatten(0, x.shape[:-1])

    def without_loras(self) -> "Int8Linear":
        """Return the layer itself, because its original weight no longer exists."""
        return self


def round_rows(x: Float[Tensor, "n d"]) -> tuple[Int8[Tensor, "n d"], Float[Tensor, "n 1"]]:
    """Round rows to int8, and return them with the scale of each row. Errors are at most 1/254 of a row's maximum."""
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / _MAX
    return (x.float() / scale).round_().to(torch.int8), scale
