"""Where a model runs, and in which floating-point type."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from cogvideox.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(wanted: str | torch.device) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, or else the CPU.

    Raises:
        UserError: no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device).item()  # the device "meta" can make tensors, but has no numbers
    except (RuntimeError, AssertionError):  # AssertionError: a torch without CUDA that is asked for it
        found = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise UserError(f"there is no device {str(wanted)!r} here; there is {found}") from None
    return device


def on(device: torch.device) -> AbstractContextManager:
    """A context in which streams, events and recorded graphs, which name no device, are those of this GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def full_precision_convolutions(dtype: torch.dtype) -> Iterator[None]:
    """A context in which cuDNN computes float32 convolutions in float32.

    By default it rounds their inputs to TF32, which has 10 bits of precision, as float16.
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


def choose_dtype(wanted: str | torch.dtype, device: torch.device, default: str) -> torch.dtype:
    """The dtype that a model computes in on that device.

    Args:
        wanted: a name, or "auto": float32 on a CPU, else `default`.
        default: the model's own dtype.

    Raises:
        UserError: no such type, or one that the CPU has no fast arithmetic for.
    """
    name = str(wanted).removeprefix("torch.")
    if name == "auto":
        return torch.float32 if device.type == "cpu" else DTYPES[default]
    if name not in DTYPES:
        raise UserError(f"there is no dtype {name!r}; there are auto, {', '.join(DTYPES)}")
    if device.type == "cpu" and name != "float32":
        raise UserError(f"dtype {name} is for GPUs: on a CPU it is many times slower than float32, so use that")
    return DTYPES[name]


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
