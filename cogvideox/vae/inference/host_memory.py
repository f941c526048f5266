"""Where tensors wait until it is their turn: a device's in the CPU's memory, the CPU's in a temporary file."""

import ctypes
import sys
import tempfile
from typing import BinaryIO

import torch
from torch import Tensor


def to_host(x: Tensor) -> Tensor:
    """A copy of a device's tensor in the CPU's memory, pinned for CUDA, where the way back is several times faster."""
    return torch.empty_like(x, device="cpu", pin_memory=x.is_cuda).copy_(x)


class DiskTensor:
    """A tensor in a file without a name, which is gone with this object. The system's `TMPDIR` says where."""

    def __init__(self, x: Tensor) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as this object lives
        torch.save(x, self._file)

    def read(self) -> Tensor:
        self._file.seek(0)
        return torch.load(self._file, weights_only=True)


def release_memory() -> None:
    """Give freed memory of the CPU back to the system. Between tensors that stay, glibc would keep it."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
