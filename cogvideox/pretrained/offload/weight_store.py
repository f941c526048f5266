"""Weight stores of an offloaded network, which return tensors by name from disk or memory.

The disk store reads, casts and merges tensors on every access. The memory store keeps them in the network's dtype or
quantized (`weight_quantization`), in page-locked memory if they are copied to a GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

import torch
from torch import Tensor

from cogvideox.pretrained.offload.pinned_memory import PinnedBuffer
from cogvideox.pretrained.offload.weight_quantization import QuantizedFormat, QuantizedMatrix, fake_quantize_
from cogvideox.state_dict.key_rules import Rule
from cogvideox.state_dict.lazy import LazyStateDict
from cogvideox.state_dict.strict_load import convert_into, convert_tensors, source_names


class DiskStore:
    """Reads tensors from the weights file. Thread-safe.

    Args:
        expected: names and shapes of the network's tensors (its `state_dict()` before loading).
        where: path of the file, for messages.
    """

    def __init__(
        self,
        state: LazyStateDict,
        expected: Mapping[str, Tensor],
        rules: Sequence[Rule],
        where: str,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._state, self._expected, self._rules, self._where = state, expected, rules, where
        self._dtype, self._device = dtype, device
        self._lock = Lock()

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Read tensors to the device, check and cast them.

        Raises:
            UserError: a tensor is damaged or its values are too large for the dtype.
        """
        expected, state = {name: self._expected[name] for name in names}, self._select(names)
        with self._lock, torch.inference_mode(False), torch.no_grad():
            tensors = dict(
                convert_tensors(
                    state,
                    expected,
                    where=self._where,
                    rules=self._rules,
                    dtype=self._dtype,
                    device=self._device,
                    keep=False,
                )
            )
            state.release()  # small tensors are spread over the whole file
        return tensors

    def fill(self, names: Sequence[str], out: Mapping[str, Tensor]) -> None:
        """Read into existing tensors, one at a time, without temporary memory. For errors see `fetch`."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            convert_into(self._select(names), out, where=self._where, rules=self._rules)

    def lookup_rows(self, name: str, indices: Tensor) -> Tensor:
        """Read and cast some rows of a table that is stored under a single name, without reading the other rows."""
        (source,) = source_names(name, self._state, self._rules)
        return self._state[source][indices.to("cpu")].to(self._device, self._dtype)

    def _select(self, names: Sequence[str]) -> LazyStateDict:
        """Select the tensors in the file from which the named tensors are built."""
        sources = [source for name in names for source in source_names(name, self._state, self._rules)]
        return self._state.select({name: name for name in sources})


class QuantizedDiskStore:
    """A disk store that rounds tensors to a quantized format, with the same results as a quantized memory store."""

    def __init__(self, disk: DiskStore, format: QuantizedFormat) -> None:
        self._disk, self._format = disk, format

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """See `DiskStore.fetch`."""
        tensors = self._disk.fetch(names)
        self._round(tensors.values())
        return tensors

    def fill(self, names: Sequence[str], out: Mapping[str, Tensor]) -> None:
        """See `DiskStore.fill`."""
        self._disk.fill(names, out)
        self._round(out[name] for name in names)

    def _round(self, matrices: Iterable[Tensor]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for matrix in matrices:
                fake_quantize_(matrix, self._format)


class MemoryStore:
    """Reads tensors once and keeps them in memory.

    Args:
        source: disk store to read from.
        groups: names of tensors that are read together, one group at a time.
        location: device that stores the tensors: the network's device, or the CPU.
        device, dtype: device and dtype of the network.
        format: quantized format; None keeps the network's dtype.
    """

    def __init__(
        self,
        source: DiskStore,
        groups: Iterable[Sequence[str]],
        *,
        location: torch.device,
        device: torch.device,
        dtype: torch.dtype,
        format: QuantizedFormat | None = None,
    ) -> None:
        self.location, self.device, self.dtype = location, device, dtype
        self.tensors: dict[str, Tensor | QuantizedMatrix] = {}
        self._buffers: list[PinnedBuffer] = []
        for names in groups:
            group = source.fetch(names)
            if format is None:
                self.tensors.update(zip(group, self._move(list(group.values()))))
            else:  # scales are small and stay on the device
                quantized = [QuantizedMatrix.quantize(tensor, format) for tensor in group.values()]
                moved = self._move([matrix.values for matrix in quantized])
                for name, matrix, values in zip(group, quantized, moved):
                    self.tensors[name] = QuantizedMatrix(values, matrix.scale)

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return tensors on the network's device, in its dtype."""
        return {name: self._load(self.tensors[name]) for name in names}

    def _load(self, stored: Tensor | QuantizedMatrix) -> Tensor:
        stored = stored.to(self.device)
        return stored.dequantize(self.dtype) if isinstance(stored, QuantizedMatrix) else stored

    def _move(self, tensors: list[Tensor]) -> list[Tensor]:
        """Move a group's tensors to `location`; to page-locked memory if they are on the CPU for use by a GPU."""
        if self.location.type != "cpu" or self.device.type != "cuda":
            return [tensor.to(self.location) for tensor in tensors]
        self._buffers.append(PinnedBuffer(tensors, self.device))
        return self._buffers[-1].tensors


WeightStore = DiskStore | QuantizedDiskStore | MemoryStore
