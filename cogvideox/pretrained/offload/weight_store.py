"""Weight stores of an offloaded network: they return its tensors by name, from disk or from memory.

From disk, tensors are read, cast and joined every time. In memory they are kept in the network's dtype or quantized
(`quantization`), in page-locked memory if they are copied to a GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

import torch
from torch import Tensor

from cogvideox.pretrained.offload.pinned_memory import PinnedBuffer
from cogvideox.pretrained.offload.quantization import QuantizedFormat, QuantizedMatrix, fake_quantize_
from cogvideox.state_dict.keymap import Rule
from cogvideox.state_dict.lazy import LazyStateDict
from cogvideox.state_dict.strict_load import convert_into, convert_tensors, source_names


class DiskStore:
    """Reads tensors from the weights file. Thread-safe.

    Args:
        expected: names and shapes of the network's tensors, as its `state_dict()` before loading.
        where: the file, for messages.
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
        """Read tensors to the device, checked and cast.

        Raises:
            UserError: a tensor is damaged or does not fit in the dtype.
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
        """Read tensors into existing ones, one after the other, without temporary memory. Raises as `fetch`."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            convert_into(self._select(names), out, where=self._where, rules=self._rules)

    def lookup_rows(self, name: str, indices: Tensor) -> Tensor:
        """Read some rows of a table that the file stores under one name, cast; other rows are not read."""
        (source,) = source_names(name, self._state, self._rules)
        return self._state[source][indices.to("cpu")].to(self._device, self._dtype)

    def _select(self, names: Sequence[str]) -> LazyStateDict:
        """The tensors of the file from which these are made."""
        sources = [source for name in names for source in source_names(name, self._state, self._rules)]
        return self._state.select({name: name for name in sources})


class QuantizedDiskStore:
    """A disk store whose tensors are rounded to a quantized format, for the same results as quantized in memory."""

    def __init__(self, disk: DiskStore, format: QuantizedFormat) -> None:
        self._disk, self._format = disk, format

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """As `DiskStore.fetch`."""
        tensors = self._disk.fetch(names)
        self._round(tensors.values())
        return tensors

    def fill(self, names: Sequence[str], out: Mapping[str, Tensor]) -> None:
        """As `DiskStore.fill`."""
        self._disk.fill(names, out)
        self._round(out[name] for name in names)

    def _round(self, matrices: Iterable[Tensor]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for matrix in matrices:
                fake_quantize_(matrix, self._format)


class MemoryStore:
    """Reads tensors once and keeps them in memory.

    Args:
        source: where they are read from.
        groups: names that are read together, one group after the other.
        location: the device that keeps them: that of the network, or the CPU.
        device, dtype: those of the network.
        format: quantized format; None is the dtype of the network.
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
            else:  # scales are few and stay on the device
                quantized = [QuantizedMatrix.quantize(tensor, format) for tensor in group.values()]
                moved = self._move([matrix.values for matrix in quantized])
                for name, matrix, values in zip(group, quantized, moved):
                    self.tensors[name] = QuantizedMatrix(values, matrix.scale)

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The tensors on the device of the network, in its dtype."""
        return {name: self._load(self.tensors[name]) for name in names}

    def _load(self, stored: Tensor | QuantizedMatrix) -> Tensor:
        stored = stored.to(self.device)
        return stored.dequantize(self.dtype) if isinstance(stored, QuantizedMatrix) else stored

    def _move(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors of a group at `location`; in page-locked memory if that is the CPU and a GPU uses them."""
        if self.location.type != "cpu" or self.device.type != "cuda":
            return [tensor.to(self.location) for tensor in tensors]
        self._buffers.append(PinnedBuffer(tensors, self.device))
        return self._buffers[-1].tensors


WeightStore = DiskStore | QuantizedDiskStore | MemoryStore
