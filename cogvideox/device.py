"""Selection of a model's device and compute dtype."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from cogvideox.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device with this name; "auto" selects CUDA if there is a GPU, otherwise the CPU.

    Raises:
        UserError: there is no such device; the message lists the available ones.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # fails on "meta", which allocates tensors without values
    except (RuntimeError, AssertionError):  # AssertionError: torch was built without CUDA
        available = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise UserError(f"device {str(name)!r} is not available; use one of {available}") from None
    return device


def device_context(device: torch.device) -> AbstractContextManager:
    """Make a GPU the current device, for streams, events and CUDA graphs, which take no device argument."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def full_precision_convolutions(dtype: torch.dtype) -> Iterator[None]:
    """Disable TF32 in float32 cuDNN convolutions within the context.

    By default cuDNN rounds the inputs to TF32, which has a 10-bit mantissa, like float16.
    """
    cudnn: Any = torch.backends.cudnn
    if dtype != torch.float32 or cudnn.conv.fp32_precision != "tf32":
        yield
        return
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = True


def choose_dtype(name: str | torch.dtype, device: torch.device, default: str) -> torch.dtype:
    """Return a model's compute dtype on a device.

    Args:
        name: "float32", "bfloat16", "float16" or "auto", which is float32 on a CPU, otherwise `default`.
        default: the model's own dtype.

    Raises:
        UserError: unknown dtype, or a 16-bit dtype on a CPU, where it is slow.
    """
    name = dtype_name(name)
    if name == "auto":
        return torch.float32 if device.type == "cpu" else DTYPES[default]
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use one of auto, {', '.join(DTYPES)}")
    if device.type == "cpu" and name != "float32":
        raise UserError(f"dtype {name} is many times slower than float32 on a CPU: use float32 or auto")
    return DTYPES[name]


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple GPUs, which do not support float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def dtype_name(dtype: torch.dtype | str) -> str:
    """Return the name of a dtype without "torch.", such as "float32"."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Use deterministic, slower GPU kernels within the context. PyTorch warns about kernels without such a variant."""
    # cuBLAS reads this variable on first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    more: Any = torch.utils.deterministic
    fill = more.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    more.fill_uninitialized_memory = False  # slow, and only useful for debugging
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        more.fill_uninitialized_memory = fill
