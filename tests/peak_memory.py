"""Measurement of the peak memory of tensors, by tracking their creation and deletion."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Tracks tensor memory while the context is active. On the meta device, models of any size can be measured.

    Weights packed for oneDNN have no storage and are not counted.

    Args:
        inputs: tensors that are not counted, such as parameters.

    Attributes:
        peak: peak memory in bytes of the tensors created on `device`.
    """

    def __init__(self, *inputs: torch.Tensor, device: str = "meta") -> None:
        super().__init__()
        self.peak = self._current = 0
        self._device = device
        self._uses: Counter[int] = Counter()
        self._inputs = {tensor.untyped_storage()._cdata for tensor in inputs}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self._device and not tensor.is_mkldnn:
                self._on_create(tensor)
        return out

    def _on_create(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._inputs:
            return
        if self._uses[key] == 0:
            self._current += size
            self.peak = max(self.peak, self._current)
        self._uses[key] += 1
        weakref.finalize(tensor, self._on_free, key, size)

    def _on_free(self, key: int, size: int) -> None:
        self._uses[key] -= 1
        if self._uses[key] == 0:
            self._current -= size
