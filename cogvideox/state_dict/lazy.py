"""State dicts that stay on disk: names, shapes and dtypes are known at once, values are read when they are needed.

Every page read through a mapped file counts as memory of the process until the file is unmapped. So a tensor that is
kept is a view of a persistent mapping (`state[name]`, no copy), and a tensor that is only cast, joined or copied comes
from a transient mapping, which is reopened after a number of bytes (`state.read_transient(name)`).
"""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

TensorReader = Callable[[str], Tensor]


class MappedFile:
    """One file of tensors, mapped into memory.

    Args:
        open: maps the file again and returns the function that reads from this mapping.
        limit: bytes that are read from the transient mapping before it is reopened.
    """

    def __init__(self, open: Callable[[], TensorReader], limit: int) -> None:
        self._open = open
        self._limit = limit
        self._persistent: TensorReader | None = None
        self._transient: TensorReader | None = None
        self._num_read = 0

    def read_persistent(self, key: str) -> Tensor:
        """A view of the file that stays valid."""
        if self._persistent is None:
            self._persistent = self._open()
        return self._persistent(key)

    def read_transient(self, key: str) -> Tensor:
        """A view of the file that the caller must drop before it reads the next tensors."""
        if self._transient is None or self._num_read > self._limit:
            self._transient = None  # unmap before mapping again
            self._transient, self._num_read = self._open(), 0
        tensor = self._transient(key)
        self._num_read += tensor.nbytes
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
        self._last: MappedFile | None = None

    def __getitem__(self, name: str) -> Tensor:
        file, key = self._locations[name]
        return file.read_persistent(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta)

    def __len__(self) -> int:
        return len(self.meta)

    def read_transient(self, name: str) -> Tensor:
        """The tensor, to be copied and not kept: it is valid only until the next call."""
        file, key = self._locations[name]
        if self._last is not None and self._last is not file:
            self._last.release()
        self._last = file
        return file.read_transient(key)

    def release(self) -> None:
        """Unmap the transient mapping, which frees the pages read through it."""
        if self._last is not None:
            self._last.release()

    def select(self, names: Mapping[str, str]) -> "LazyStateDict":
        """A subset of the tensors under new names. `names` maps each new name to the present one."""
        return LazyStateDict(
            {new: self.meta[old] for new, old in names.items()},
            {new: self._locations[old] for new, old in names.items()},
            self.metadata,
        )


def meta_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shape and dtype of every tensor, on the meta device. Reads no values."""
    if isinstance(state, LazyStateDict):
        return state.meta
    return {name: tensor.to("meta") for name, tensor in state.items()}


def read_transient(state: Mapping[str, Tensor], name: str) -> Tensor:
    """One tensor, to be copied and not kept."""
    return state.read_transient(name) if isinstance(state, LazyStateDict) else state[name]
