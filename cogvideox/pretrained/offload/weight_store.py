"""Where the matrices of a streamed network wait, and how they come from there: the disk, or memory.

A shelf gives matrices by name, as the network multiplies by them. From the disk they are cast and joined every time;
in memory they lie ready, as they are or in one byte a number (`rows`), in pinned memory where a GPU fetches them.
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
    """A shelf that is the files of the model.

    Args:
        expected: names and shapes of the network's tensors, as its `state_dict` before anything is loaded.
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
        """Read, checked and cast. One thread at a time reads.

        Raises:
            UserError: one is damaged, or does not fit into the type.
        """
        wanted, state = {name: self._expected[name] for name in names}, self._part(names)
        with self._lock, torch.inference_mode(False), torch.no_grad():
            made = dict(
                convert_tensors(
                    state,
                    wanted,
                    where=self._where,
                    rules=self._rules,
                    dtype=self._dtype,
                    device=self._device,
                    keep=False,
                )
            )
            state.release()  # small tensors lie all over the file
        return made

    def fill(self, names: Sequence[str], into: Mapping[str, Tensor]) -> None:
        """The same, one after the other into tensors that are there, so that no other memory is held.

        Raises:
            UserError: as `fetch`.
        """
        with self._lock, torch.inference_mode(False), torch.no_grad():
            convert_into(self._part(names), into, where=self._where, rules=self._rules)

    def _part(self, names: Sequence[str]) -> LazyStateDict:
        """Of the files, what these tensors are made of."""
        theirs = [part for name in names for part in source_names(name, self._state, self._rules)]
        return self._state.select({name: name for name in theirs})

    def rows_of(self, name: str, indices: Tensor) -> Tensor:
        """Some rows of a table that lies in the file as it is used, cast. The others are never read."""
        (theirs,) = source_names(name, self._state, self._rules)
        return self._state[theirs][indices.to("cpu")].to(self._device, self._dtype)


class QuantizedDiskStore:
    """The same shelf, of matrices as they would be after a time in one-byte storage."""

    def __init__(self, disk: DiskStore, storage: QuantizedFormat) -> None:
        self._disk, self._storage = disk, storage

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """As `OnDisk.fetch`."""
        made = self._disk.fetch(names)
        self._round(made.values())
        return made

    def fill(self, names: Sequence[str], into: Mapping[str, Tensor]) -> None:
        """As `OnDisk.fill`."""
        self._disk.fill(names, into)
        self._round(into[name] for name in names)

    def _round(self, matrices: Iterable[Tensor]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for matrix in matrices:
                fake_quantize_(matrix, self._storage)


class MemoryStore:
    """A shelf of tensors that were read once.

    Args:
        source: where they come from.
        groups: names that are read together, one group after the other.
        place: where they wait: the device itself, or the CPU.
        storage: in which form; None is that of the network.
    """

    def __init__(
        self,
        source: DiskStore,
        groups: Iterable[Sequence[str]],
        *,
        place: torch.device,
        device: torch.device,
        dtype: torch.dtype,
        storage: QuantizedFormat | None = None,
    ) -> None:
        self.place, self.device, self.dtype = place, device, dtype
        self.held: dict[str, Tensor | QuantizedMatrix] = {}
        self._buffers: list[PinnedBuffer] = []
        for names in groups:
            read = source.fetch(names)
            if storage is None:
                self.held.update(zip(read, self._put_away(list(read.values()))))
            else:  # the scales are few and stay on the device
                rounded = [QuantizedMatrix.of(tensor, storage) for tensor in read.values()]
                numbers = self._put_away([matrix.numbers for matrix in rounded])
                for name, matrix, here in zip(read, rounded, numbers):
                    self.held[name] = QuantizedMatrix(here, matrix.scale)

    def fetch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """On the device, in the type of the network."""
        return {name: self._spread(self.held[name]) for name in names}

    def _spread(self, held: Tensor | QuantizedMatrix) -> Tensor:
        held = held.to(self.device)
        return held.spread(self.dtype) if isinstance(held, QuantizedMatrix) else held

    def _put_away(self, tensors: list[Tensor]) -> list[Tensor]:
        """Moves the tensors of a group to `place`; into page-locked memory if that is the CPU and they go to a GPU."""
        if self.place.type != "cpu" or self.device.type != "cuda":
            return [tensor.to(self.place) for tensor in tensors]
        self._buffers.append(PinnedBuffer(tensors, self.device))
        return self._buffers[-1].tensors


WeightStore = DiskStore | QuantizedDiskStore | MemoryStore
