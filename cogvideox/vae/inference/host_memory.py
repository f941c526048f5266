"""Offloading of single tensors: from a GPU to pinned CPU memory, and from CPU memory to a temporary file."""

import ctypes
import sys
import tempfile
from typing import BinaryIO

import torch
from torch import Tensor


def to_host(x: Tensor) -> Tensor:
    """Copy a tensor to CPU memory, pinned for CUDA so that copying it back is several times faster."""
    return torch.empty_like(x, device="cpu", pin_memory=x.is_cuda).copy_(x)


class DiskTensor:
    """A tensor in an unnamed temporary file in `TMPDIR`, which is deleted together with this object."""

    def __init__(self, x: Tensor) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object exists
        torch.save(x, self._file)

    def read(self) -> Tensor:
        self._file.seek(0)
        return torch.load(self._file, weights_only=True)


def release_memory() -> None:
    """Return freed CPU memory to the operating system; glibc keeps free blocks between live allocations."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # missing in other C libraries
        if malloc_trim is not None:
            malloc_trim(0)
