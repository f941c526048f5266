"""The blocks' linear layers in 8-bit floating point: an approximation, for GPUs that multiply these twice as fast.

Each row of a weight and each token has a scale of its own (row-wise scaling), so that its largest number becomes 448,
the largest of float8_e4m3. Weights are rounded once, tokens whenever they come. Products are summed in float32. What
enters and leaves the network, and what the timestep makes of the norms, stays as it was: it costs nothing there, and
errors would go everywhere.

A device without such arithmetic multiplies the same rounded numbers, more slowly than without them: that is for
measuring the error.

Axes: n tokens or whatever else the layer is applied to; d_in, d_out its inputs and outputs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.linear import linear
from cogvideox.transformer.lora.layers import LowRankLinear
from cogvideox.transformer.model import Transformer

LAYERS = ("attention.qkv", "attention.out", "mlp.out")
"""Of each block. `mlp.hidden`, a third of the arithmetic, stays: it hurts the shipped model as much as these three."""

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max
_CHUNK = 1 << 26
"""Numbers that are rounded at once: their float32 copies are what rounding takes beside its result."""


def to_float8(model: Transformer) -> None:
    """Rounds the blocks' linear layers to 8 bits, which halves their memory. Their originals are gone.

    LoRAs that lie beside the weights stay there, in full; merged ones belong to the weights from now on.

    Raises:
        UserError: weights that are elsewhere.
    """
    for layer in model.modules():
        if isinstance(layer, LowRankLinear):
            layer.settle()
    for block in model.blocks:
        for name in LAYERS:
            layer = block.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            if layer.weight.numel() == 0:
                raise UserError("blocks that are streamed cannot be kept in float8: choose a plan that holds them all")
            block.set_submodule(name, Float8Linear(layer))


def is_float8(model: Transformer) -> bool:
    return any(isinstance(layer, Float8Linear) for layer in model.modules())


class Float8Linear(LowRankLinear):
    """A linear layer whose weight is in float8, and the LoRAs beside it."""

    can_merge = False

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        # Asked once: the compiler need not look into it.
        self.is_quick = multiplies_float8(layer.weight.device)
        weight, scale = round_rows(layer.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        if isinstance(layer, LowRankLinear):
            self.loras = layer.loras

    def alone(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        rows = x.reshape(-1, x.shape[-1])
        rounded, scale = round_rows(rows)
        if self.is_quick:
            # Scales of rows are known only to a product that ends in bfloat16.
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
            out = linear(_restored(rounded, scale, x.dtype), _restored(self.weight, self.scale, x.dtype), self.bias)
        out = F.gelu(out, approximate="tanh") if gelu else out
        return out.unflatten(0, x.shape[:-1])

    def plain(self) -> "Float8Linear":
        """The layer itself: what it was before is gone."""
        return self


def round_rows(x: Float[Tensor, "n d"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Round rows to float8; returns them and the factor that restores each."""
    if torch.compiler.is_compiling() or x.numel() <= _CHUNK:  # the compiler makes one pass without copies
        return _round(x)
    rounded = torch.empty(x.shape, dtype=_FLOAT8, device=x.device)
    scale = torch.empty(len(x), 1, device=x.device)
    parts = (tensor.split(max(1, _CHUNK // x.shape[1])) for tensor in (x, rounded, scale))
    for part, rounded_part, scale_part in zip(*parts):
        numbers, factors = _round(part)
        rounded_part.copy_(numbers)
        scale_part.copy_(factors)
    return rounded, scale


def _round(x: Float[Tensor, "n d"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (x.float() / scale).clamp_(-_LARGEST, _LARGEST).to(_FLOAT8), scale


def multiplies_float8(device: torch.device) -> bool:
    """Whether the device has arithmetic for it: Nvidia's since Ada and Hopper."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


def _restored(rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (rows.float() * scale).to(dtype)
