"""Quantized frozen weights for LoRA training: int8 or NF4 storage of the matrices of all blocks.

A matrix is dequantized for its product and again for its gradient, and freed after each, so that at most one exists in
the network's dtype. The inputs of frozen layers are not saved. Activations, LoRA factors and all other weights keep
their precision.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cogvideox.linear import linear
from cogvideox.pretrained.offload.weight_quantization import QuantizedMatrix
from cogvideox.training.diffusion.nf4 import NF4Matrix
from cogvideox.transformer.lora.config import BaseWeights
from cogvideox.transformer.lora.layers import LoRALinear
from cogvideox.transformer.model import Transformer

BYTES_PER_WEIGHT: dict[BaseWeights, float] = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes per stored weight, with the scales of NF4. Those of int8 (one per row) are negligible."""


def quantize_base(model: Transformer, base_weights: BaseWeights) -> None:
    """Replace the frozen linear layers of the blocks by quantized ones, in place. LoRAs are kept. Cannot be undone."""
    for block in model.blocks:
        for path, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                block.set_submodule(path, QuantizedLinear(layer, base_weights))


class QuantizedLinear(LoRALinear):
    """A linear layer with a frozen weight in int8 or NF4, and optional LoRAs."""

    can_merge = False

    def __init__(self, layer: nn.Linear, base_weights: BaseWeights) -> None:
        super().__init__(layer)
        weight = layer.weight.detach()
        self.shape = (weight.shape[0], weight.shape[1])
        if base_weights == "int8":
            int8 = QuantizedMatrix.quantize(weight, "int8")
            values, scale = int8.values, int8.scale
        else:
            nf4 = NF4Matrix.quantize(weight)
            values, scale = nf4.codes, nf4.scale
        self.weight = nn.Parameter(values, requires_grad=False)
        self.register_buffer("scale", scale, persistent=False)
        if isinstance(layer, LoRALinear):
            self.loras = layer.loras

    def dequantize(self, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
        """Return the weight in `dtype`."""
        if self.weight.dtype == torch.int8:
            return QuantizedMatrix(self.weight, self.scale).dequantize(dtype)
        return NF4Matrix(self.weight, self.scale, self.shape).dequantize(dtype)

    def base_forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        out = _FrozenProduct.apply(x.to(dtype), self.dequantize, bias)
        return F.gelu(out, approximate="tanh") if gelu else out

    def without_loras(self) -> "QuantizedLinear":
        """Return the layer itself, because its original weight no longer exists."""
        return self


class _FrozenProduct(torch.autograd.Function):
    """x @ weight.T + bias with a frozen weight, which is dequantized in each direction instead of saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dequantize: Callable[[torch.dtype], Tensor], bias: Tensor | None) -> Tensor:
        ctx.dequantize = dequantize
        return linear(x, dequantize(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return linear(grad, ctx.dequantize(grad.dtype).t()), None, None
