"""Selection of a model's compute dtype, and detection of overflows, which would result in a black video.

The dtype of each official model is `dtype` in its settings (`pretrained.model_settings`): float16 for 2B, bfloat16 for
the other models, whose activations exceed the range of float16.
"""

import torch
from torch import Tensor

from cogvideox.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(
    name: str | torch.dtype, device: torch.device, default: str, *, cpu_default: str = "float32"
) -> torch.dtype:
    """Return a model's compute dtype on a device.

    Args:
        name: "float32", "bfloat16", "float16" or "auto", which is `cpu_default` on a CPU, otherwise `default`.
        default: the model's own dtype.
        cpu_default: the dtype of "auto" on a CPU (`pretrained.offload.cpu_dtype`).

    Raises:
        UserError: unknown dtype.
    """
    name = dtype_name(name)
    if name == "auto":
        return DTYPES[cpu_default if device.type == "cpu" else default]
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_finite(x: Tensor, dtype: torch.dtype) -> None:
    """Check that a tensor has no NaN or infinity, which would decode to black or arbitrary pixels.

    Raises:
        UserError: it has; activations exceeded the range of `dtype`.
    """
    if not torch.isfinite(x).all():
        wider = "dtype float32 or bfloat16, or " if dtype == torch.float16 else ""
        raise UserError(f"the model produced values out of the range of {dtype}: use {wider}a smaller guidance_scale")


def dtype_name(dtype: torch.dtype | str) -> str:
    """Return the name of a dtype without "torch.", such as "float32"."""
    return str(dtype).removeprefix("torch.")


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple GPUs, which do not support float64."""
    return torch.float32 if device.type == "mps" else torch.float64
