"""CPU tensors in page-locked memory, for asynchronous copies to a GPU."""

import mmap
import weakref
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from cogvideox.device import device_context

_ALIGNMENT = 256
"""Alignment of tensors in bytes, as in torch."""


class PinnedBuffer:
    """Copies of tensors in one page-locked buffer, which must outlive their use.

    torch rounds pinned allocations up to powers of two, which wastes up to half of the memory. Registering tensors one
    by one fails, because they may share a page, which the driver does not register twice. So one buffer of whole pages
    is registered. If that fails, copies are slower but otherwise unaffected.
    """

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        sizes = [_round_up(tensor.nbytes, _ALIGNMENT) for tensor in tensors]
        starts = [0, *accumulate(sizes)]
        size = _round_up(starts[-1], mmap.PAGESIZE)
        with torch.inference_mode(False), torch.no_grad():
            self._memory = torch.empty(size + mmap.PAGESIZE, dtype=torch.uint8)
            begin = -self._memory.data_ptr() % mmap.PAGESIZE
            pages = self._memory[begin : begin + size]
            self.tensors = [
                pages[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
                for start, tensor in zip(starts, tensors)
            ]
        runtime: Any = torch.cuda.cudart()
        with device_context(device):
            failed = int(runtime.cudaHostRegister(pages.data_ptr(), size, 0))
        if not failed:
            # Not called at interpreter exit, when the driver may already be shut down.
            unregister = weakref.finalize(self._memory, runtime.cudaHostUnregister, pages.data_ptr())
            unregister.atexit = False  # pyrefly: ignore[missing-attribute]
        else:
            clear_last_error(device)


def clear_last_error(device: torch.device) -> None:
    """Clear CUDA's last error, which the next kernel launch would otherwise raise."""
    with suppress(RuntimeError):  # the launch raises the error, which clears it
        torch.ones(1, device=device)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
