"""Counts the bytes of tensors that are alive, as operations make them and they are let go."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """While it is entered. On the meta device this measures models of any size: nothing is computed or held.

    Attributes:
        peak: the most bytes at once of what was made on `device` since, parameters and other inputs apart.
    """

    def __init__(self, *inputs: torch.Tensor, device: str = "meta") -> None:
        super().__init__()
        self.peak = self._now = 0
        self._device = device
        self._uses: Counter[int] = Counter()
        self._inputs = {tensor.untyped_storage()._cdata for tensor in inputs}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self._device:
                self._made(tensor)
        return out

    def _made(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._inputs:
            return
        if self._uses[key] == 0:
            self._now += size
            self.peak = max(self.peak, self._now)
        self._uses[key] += 1
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._uses[key] -= 1
        if self._uses[key] == 0:
            self._now -= size
