"""Lazy state dicts: names, shapes and dtypes are available immediately, values are read on demand.

Every page read from a memory-mapped file counts towards the memory of the process until the file is unmapped. So there
are two mappings of each file. `state[name]` returns a view of the persistent mapping, for tensors that the caller
keeps. `state.read_transient(name)` returns a view of the transient mapping, for tensors that the caller casts, joins or
copies; it is reopened after a number of bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor

TensorReader = Callable[[str], Tensor]


class MappedFile:
    """A memory-mapped file of tensors.

    Args:
        open: creates a new mapping of the file and returns the function that reads from it.
        limit: number of bytes after which the transient mapping is reopened.
    """

    def __init__(self, open: Callable[[], TensorReader], limit: int) -> None:
        self._open = open
        self._limit = limit
        self._persistent: TensorReader | None = None
        self._transient: TensorReader | None = None
        self._bytes_read = 0

    def read_persistent(self, key: str) -> Tensor:
        """Return a view of the file that remains valid."""
        if self._persistent is None:
            self._persistent = self._open()
        return self._persistent(key)

    def read_transient(self, key: str) -> Tensor:
        """Return a view of the file that the caller must drop before reading the next tensor."""
        if self._transient is None or self._bytes_read > self._limit:
            self._transient = None  # unmap before mapping again
            self._transient, self._bytes_read = self._open(), 0
        tensor = self._transient(key)
        self._bytes_read += tensor.nbytes
        return tensor

    def release(self) -> None:
        """Unmap the transient mapping."""
        self._transient = None


class LazyStateDict(Mapping[str, Tensor]):
    """A state dict stored in files. Its values are views of mapped files; writing to one does not change the file.

    Attributes:
        meta: shape and dtype of every tensor, as tensors on the meta device.
        metadata: the metadata of a safetensors file.
    """

    def __init__(
        self,
        meta: Mapping[str, Tensor],
        locations: Mapping[str, tuple[MappedFile, str]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.meta = dict(meta)
        self.metadata = dict(metadata or {})
        self._locations = dict(locations)
        self._last_file: MappedFile | None = None

    @classmethod
    def union(cls, parts: Iterable["LazyStateDict"]) -> "LazyStateDict":
        """Return the tensors of all parts, without their metadata. Names must be unique."""
        parts = list(parts)
        return cls(
            {name: tensor for part in parts for name, tensor in part.meta.items()},
            {name: location for part in parts for name, location in part._locations.items()},
        )

    def __getitem__(self, name: str) -> Tensor:
        file, key = self._locations[name]
        return file.read_persistent(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta)

    def __len__(self) -> int:
        return len(self.meta)

    def read_transient(self, name: str) -> Tensor:
        """Return a tensor that is valid only until the next call; the caller must copy it to keep it."""
        file, key = self._locations[name]
        if self._last_file is not None and self._last_file is not file:
            self._last_file.release()
        self._last_file = file
        return file.read_transient(key)

    def release(self) -> None:
        """Unmap the transient mapping, which frees the pages read from it."""
        if self._last_file is not None:
            self._last_file.release()

    def select(self, names: Mapping[str, str]) -> "LazyStateDict":
        """Return a subset of the tensors under new names. `names` maps new names to current ones."""
        return LazyStateDict(
            {new: self.meta[old] for new, old in names.items()},
            {new: self._locations[old] for new, old in names.items()},
            self.metadata,
        )


def meta_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor's shape and dtype as a tensor on the meta device. Reads no values."""
    if isinstance(state, LazyStateDict):
        return state.meta
    return {name: tensor.to("meta") for name, tensor in state.items()}


def read_transient(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor that is valid only until the next call; the caller must copy it to keep it."""
    return state.read_transient(name) if isinstance(state, LazyStateDict) else state[name]
