"""State dicts that stay on the disk: names, shapes and types are known at once, values come when they are asked for.

A process pays for every page of a mapped file that it has read, until the file is unmapped. So a tensor that is kept as
it lies in the file comes from a mapping that lasts (`state[name]`, no copy), and one that is only passed on, to be cast
or joined with others, from a mapping that is given up again and again (`state.read_transient(name)`).
"""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

TensorReader = Callable[[str], Tensor]


class MappedFile:
    """One file of tensors.

    Args:
        open: maps the file anew and gives the function that reads from this mapping.
        limit: after so many bytes of passing tensors the mapping they came from is given up.
    """

    def __init__(self, open: Callable[[], TensorReader], limit: int) -> None:
        self._open = open
        self._limit = limit
        self._lasting: TensorReader | None = None
        self._passing: TensorReader | None = None
        self._num_passed = 0

    def read_persistent(self, key: str) -> Tensor:
        """A view of the file, valid as long as it is held."""
        if self._lasting is None:
            self._lasting = self._open()
        return self._lasting(key)

    def read_transient(self, key: str) -> Tensor:
        """A view of the file that the caller lets go before it asks for the next ones."""
        if self._passing is None or self._num_passed > self._limit:
            self._passing = None  # unmapped first
            self._passing, self._num_passed = self._open(), 0
        tensor = self._passing(key)
        self._num_passed += tensor.nbytes
        return tensor

    def release(self) -> None:
        """Gives up the mapping of passing tensors."""
        self._passing = None


class LazyStateDict(Mapping[str, Tensor]):
    """A state dict in files. As a mapping it gives views of the mapped files; writing to one leaves the file as it is.

    Attributes:
        meta: shape and type of every tensor, as tensors on the meta device.
        metadata: what a safetensors file says beside its tensors.
    """

    def __init__(
        self,
        meta: Mapping[str, Tensor],
        places: Mapping[str, tuple[MappedFile, str]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.meta = dict(meta)
        self.metadata = dict(metadata or {})
        self._places = dict(places)
        self._last: MappedFile | None = None

    def __getitem__(self, name: str) -> Tensor:
        file, key = self._places[name]
        return file.read_persistent(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta)

    def __len__(self) -> int:
        return len(self.meta)

    def read_transient(self, name: str) -> Tensor:
        """The tensor, for a moment: to be copied, not to be kept."""
        file, key = self._places[name]
        if self._last is not None and self._last is not file:
            self._last.release()
        self._last = file
        return file.read_transient(key)

    def release(self) -> None:
        """Gives up the mapping that passing tensors came from, with all that was read of it."""
        if self._last is not None:
            self._last.release()

    def renamed(self, names: Mapping[str, str]) -> "LazyStateDict":
        """Only these tensors, under other names. `names` leads from the new name to the present one."""
        return LazyStateDict(
            {new: self.meta[old] for new, old in names.items()},
            {new: self._places[old] for new, old in names.items()},
            self.metadata,
        )


def meta_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shape and type of every tensor, on the meta device; of a stored state dict no value is read."""
    return (
        state.meta if isinstance(state, LazyStateDict) else {name: tensor.to("meta") for name, tensor in state.items()}
    )


def read_transient(state: Mapping[str, Tensor], name: str) -> Tensor:
    """One tensor to be copied, not to be kept."""
    return state.read_transient(name) if isinstance(state, LazyStateDict) else state[name]
