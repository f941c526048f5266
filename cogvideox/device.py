"""Selection of a model's device, and contexts for computing on it. `dtype` selects the compute dtype."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from cogvideox.errors import UserError


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device with this name; "auto" selects CUDA if there is a GPU, otherwise the CPU.

    Raises:
        UserError: the device is not available; the message lists the available ones.
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
    """Make a GPU the current device, for streams, events and CUDA graphs, which have no device argument."""
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


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Use deterministic, slower GPU kernels within the context. PyTorch warns about operations without one."""
    # cuBLAS reads this variable on first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    previous = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill_memory = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # slow, and only useful for debugging
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(previous[0], warn_only=previous[1])
        settings.fill_uninitialized_memory = fill_memory
