"""Float8 linear layers in the blocks: an approximation for GPUs with float8 matrix products, which are twice as fast.

Scaling is row-wise: each row of a weight and each token has a scale, such that its maximum becomes 448, the largest
value of float8_e4m3. Weights are rounded once, and activations at each call. Products are accumulated in float32. The
first and last layers and the modulation keep their precision, because they cost little and their errors would affect
all tokens.

Devices without float8 arithmetic multiply the rounded values in the original dtype, which is slower but has the same
error.

Axes: n tokens or any other leading dimensions; d_in, d_out inputs and outputs of the layer.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.linear import linear
from cogvideox.transformer.lora.layers import LoRALinear
from cogvideox.transformer.lora.merge import make_merge_permanent
from cogvideox.transformer.model import Transformer

LAYERS = ("attention.qkv", "attention.out", "mlp.out")
"""The float8 layers of each block. `mlp.hidden`, a third of the FLOPs, would add as much error as these three."""

_FLOAT8 = torch.float8_e4m3fn
_MAX = torch.finfo(_FLOAT8).max
_CHUNK = 1 << 26
"""Number of elements rounded at once, which limits the size of temporary float32 copies."""


def to_float8(model: Transformer) -> None:
    """Replace linear layers of the blocks with float8 layers, in place. Halves their memory; cannot be undone.

    Unmerged LoRAs keep their precision and remain removable; merged ones become part of the weights.

    Raises:
        UserError: the weights of the blocks are offloaded.
    """
    replace_linears(model, Float8Linear, "float8")


def replace_linears(model: Transformer, layer_class: Callable[[nn.Linear], nn.Linear], option: str) -> None:
    """Replace the `LAYERS` of all blocks, in place. Merged LoRAs become part of the weights.

    Args:
        option: name of the option, for messages.

    Raises:
        UserError: the weights of the blocks are offloaded.
    """
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            make_merge_permanent(layer)
    for block in model.blocks:
        for name in LAYERS:
            layer = block.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            if layer.weight.numel() == 0:
                raise UserError(f"{option} needs all blocks on the device, but they are offloaded: use memory='speed'")
            block.set_submodule(name, layer_class(layer))


def is_float8(model: Transformer) -> bool:
    """Return whether `to_float8` was applied to the model."""
    return any(isinstance(layer, Float8Linear) for layer in model.modules())


class Float8Linear(LoRALinear):
    """A linear layer with a float8 weight and optional LoRAs."""

    can_merge = False

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.has_float8 = has_float8_arithmetic(layer.weight.device)
        weight, scale = round_rows(layer.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        if isinstance(layer, LoRALinear):
            self.loras = layer.loras

    def base_forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        rows = x.reshape(-1, x.shape[-1])
        rounded, scale = round_rows(rows)
        if self.has_float8:
            # Row-wise scales are supported only with bfloat16 outputs.
            out = torch._scaled_mm(
                rounded,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale.t(),
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            ).to(x.dtype)
            out = out if self.bias is None else out + self.bias
        else:
            out = linear(_dequantize(rounded, scale, x.dtype), _dequantize(self.weight, self.scale, x.dtype), self.bias)
        out = F.gelu(out, approximate="tanh") if gelu else out
        return out.unflatten(0, x.shape[:-1])

    def without_loras(self) -> "Float8Linear":
        """Return the layer itself, because its original weight no longer exists."""
        return self


def round_rows(x: Float[Tensor, "n d"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Round rows to float8, and return them with the scale of each row."""
    if torch.compiler.is_compiling() or x.numel() <= _CHUNK:  # compiled code needs no temporary copies
        return _round(x)
    rounded = torch.empty(x.shape, dtype=_FLOAT8, device=x.device)
    scale = torch.empty(len(x), 1, device=x.device)
    parts = (tensor.split(max(1, _CHUNK // x.shape[1])) for tensor in (x, rounded, scale))
    for part, rounded_part, scale_part in zip(*parts):
        values, scales = _round(part)
        rounded_part.copy_(values)
        scale_part.copy_(scales)
    return rounded, scale


def _round(x: Float[Tensor, "n d"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / _MAX
    return (x.float() / scale).clamp_(-_MAX, _MAX).to(_FLOAT8), scale


def has_float8_arithmetic(device: torch.device) -> bool:
    """Return whether the device has float8 arithmetic: Nvidia GPUs since Ada and Hopper."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


def _dequantize(rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (rows.float() * scale).to(dtype)
