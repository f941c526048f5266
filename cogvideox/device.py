"""Selection of a model's device, and contexts for computing on it. `dtype` selects the compute dtype."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from cogvideox.errors import UserError

_GPU_KINDS = ("cuda", "xpu", "mps")
"""Kinds of GPUs, in the order of preference."""


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device with this name; "auto" selects the first available of CUDA, XPU (Intel), MPS (Apple) and CPU.

    Raises:
        UserError: the device is not available; the message lists the available ones.
    """
    if name == "auto":
        return torch.device(next((kind for kind in _GPU_KINDS if _is_available(kind)), "cpu"))
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # fails on "meta", which allocates tensors without values
    except (RuntimeError, AssertionError):  # AssertionError: torch was built without CUDA
        others = (kind for kind in _GPU_KINDS if kind != "cuda" and _is_available(kind))
        available = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *others])
        raise UserError(f"device {str(name)!r} is not available; use one of {available}") from None
    return device


def _is_available(kind: str) -> bool:
    module: Any = torch.backends.mps if kind == "mps" else getattr(torch, kind)
    return module.is_available()


def free_device_memory(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes, including memory cached by torch, which it reuses; None for a CPU.

    The memory of Apple's GPUs is part of main memory.
    """
    if device.type in ("cuda", "xpu"):
        module: Any = getattr(torch, device.type)
        free_bytes, _ = module.mem_get_info(device)
        return free_bytes + module.memory_reserved(device) - module.memory_allocated(device)
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), 0)
    return None


def empty_device_cache(device: torch.device) -> None:
    """Free memory of a GPU that torch has cached but does not use."""
    if device.type in _GPU_KINDS:
        getattr(torch, device.type).empty_cache()


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
