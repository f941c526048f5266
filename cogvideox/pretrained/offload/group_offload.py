"""Networks whose blocks borrow their matrices: brought in just before a block runs, let go after it.

The network does not know of it: it is built without weights, and hooks on its blocks put the matrices in place. The
next block's are on their way while one runs. Vectors and what lies outside of the blocks stay: they are small. The
matrices that make the modulation of the timesteps come apart from the others, because they are used once for all steps;
and of a large table of embeddings only rows are looked up.

A LoRA may be laid over the network meanwhile, beside the weights but not merged into them, because tensors are put in
place by name.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.pretrained.components import Network
from cogvideox.pretrained.offload.quantization import QuantizedMatrix
from cogvideox.pretrained.offload.weight_store import DiskStore, MemoryStore, QuantizedDiskStore, WeightStore
from cogvideox.text.encoder import T5Encoder
from cogvideox.vae.inference.host_memory import release_memory

EMBEDDING = "embed.weight"


def set_parameters(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Makes these the network's parameters, whatever is there now."""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))


def clear_parameters(network: nn.Module, names: Sequence[str], dtype: torch.dtype, device: torch.device) -> None:
    """Leaves empty tensors of the same type on the same device in the place of these parameters."""
    with torch.inference_mode(False):
        empty = torch.empty(0, dtype=dtype, device=device)
    set_parameters(network, dict.fromkeys(names, empty))


class OffloadGroups:
    """Which tensors of a network come and go together.

    blocks: of each block, the matrices of its forward pass.
    tables: of each block, the matrix that makes its modulation; empty where there is none.
    rest: what stays. The table of embeddings, of which rows are looked up, is in none.
    """

    def __init__(self, expected: Mapping[str, Tensor]) -> None:
        num_blocks = 1 + max(int(name.split(".")[1]) for name in expected if name.startswith("blocks."))
        self.blocks: list[list[str]] = [[] for _ in range(num_blocks)]
        self.tables: list[list[str]] = [[] for _ in range(num_blocks)]
        self.rest: list[str] = []
        for name, tensor in expected.items():
            if name == EMBEDDING:
                continue
            if name.startswith("blocks.") and tensor.ndim > 1:
                kind = self.tables if ".modulation." in name else self.blocks
                kind[int(name.split(".")[1])].append(name)
            else:
                self.rest.append(name)


class BlockHooks:
    """A network in streaming, from now on. One thread at a time may use it.

    Args:
        network: built on the meta device. Its `rest` must be in place.
        expected: names and shapes of its tensors.
        shelf: where the matrices come from.
        disk: where the rows of the embedding come from.
    """

    def __init__(
        self,
        network: Network,
        expected: Mapping[str, Tensor],
        groups: OffloadGroups,
        shelf: WeightStore,
        disk: DiskStore,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._network, self._groups, self._shelf = network, groups, shelf
        self._dtype, self._device = dtype, device
        self._borrowed: list[str] = []
        like = {name: torch.empty(expected[name].shape, dtype=dtype, device="meta") for name in expected}
        self._coming = _prefetcher(groups.blocks, shelf, like, device)
        blocks: Any = network.blocks
        for i, block in enumerate(blocks):
            clear_parameters(network, [*groups.blocks[i], *groups.tables[i]], dtype, device)
            block.register_forward_pre_hook(self._before(i))
            block.register_forward_hook(self._after(i), always_call=True)
            if groups.tables[i]:
                block.compute_modulation = self._with_tables(i, block.compute_modulation)
        if isinstance(network, T5Encoder):
            clear_parameters(network, [EMBEDDING], dtype, device)
            network.embed.forward = lambda input: disk.rows_of(EMBEDDING, input)

    def rest(self) -> None:
        """Lets go of what is on its way. The next call of the network brings it again."""
        self._coming.rest()

    def _before(self, i: int) -> Callable[..., None]:
        def bring(block: nn.Module, args: Any) -> None:
            set_parameters(self._network, self._coming.take(i))

        return bring

    def _after(self, i: int) -> Callable[..., None]:
        def let_go(block: nn.Module, args: Any, output: Any) -> None:
            clear_parameters(self._network, self._groups.blocks[i], self._dtype, self._device)
            self._coming.done()

        return let_go

    def _with_tables(self, i: int, tables: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        names = self._groups.tables[i]

        def bring_and_let_go(emb: Tensor) -> Any:
            set_parameters(self._network, self._shelf.fetch(names))
            try:
                return tables(emb)
            finally:
                clear_parameters(self._network, names, self._dtype, self._device)
                _trim_host_memory(self._device)

        return bring_and_let_go


class DirectFetch:
    """Brings the matrices of blocks, which are asked for one after the other and, after the last, from the first again.

    Here each when it is asked for: what waits on the device only has to be spread out.
    """

    def __init__(self, groups: list[list[str]], shelf: MemoryStore) -> None:
        self._groups, self._shelf = groups, shelf

    def take(self, i: int) -> Mapping[str, Tensor]:
        """Those of block i; the next ones set out, where there is a way to go."""
        return self._shelf.fetch(self._groups[i])

    def done(self) -> None:
        """What was taken is not used any more."""

    def rest(self) -> None:
        """Nobody will ask for a while."""


class ThreadPrefetch:
    """A thread reads and casts the next block while one runs, the two in turn into the same two blocks of memory."""

    def __init__(
        self,
        groups: list[list[str]],
        shelf: DiskStore | QuantizedDiskStore,
        like: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self._groups, self._shelf, self._like, self._device = groups, shelf, like, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._slots: list[dict[str, Tensor]] = []
        self._count = 0
        self._coming: tuple[int, Future[dict[str, Tensor]]] | None = None

    def take(self, i: int) -> Mapping[str, Tensor]:
        if self._coming is None or self._coming[0] != i:
            self._send(i)
        assert self._coming is not None
        coming, self._coming = self._coming[1], None  # what went wrong is told once
        here = coming.result()
        self._send((i + 1) % len(self._groups))
        return here

    def done(self) -> None:
        pass

    def rest(self) -> None:
        if self._coming is not None:
            self._coming[1].exception()  # waits; what went wrong with a block that nobody takes is not told
        self._slots, self._coming = [], None
        _trim_host_memory(self._device)

    def _send(self, i: int) -> None:
        if not self._slots:
            with torch.inference_mode(False):
                self._slots = [self._room(self._groups[i]) for _ in range(2)]
        room = self._slots[self._count % 2]
        self._count += 1
        into = {name: room[_name_in_block(name)] for name in self._groups[i]}
        # On a GPU what runs was only asked for: in the same stream, nothing is written over before it has run.
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        self._coming = (i, self._thread.submit(self._fill, self._groups[i], into, stream))

    def _room(self, names: list[str]) -> dict[str, Tensor]:
        return {_name_in_block(name): torch.empty_like(self._like[name], device=self._device) for name in names}

    def _fill(self, names: list[str], into: dict[str, Tensor], stream: torch.cuda.Stream | None) -> dict[str, Tensor]:
        with torch.cuda.stream(stream), torch.no_grad():  # which is no stream where there is none
            self._shelf.fill(names, into)
        _trim_host_memory(self._device)
        return into


class CudaStreamPrefetch:
    """The next block crosses to the GPU on a stream of its own while one runs.

    Two blocks of memory are used in turn, so that nothing is allocated on the way. Events keep the streams apart: a
    block is not computed before it is there, nor overwritten before it is computed; the CPU waits for neither.
    """

    def __init__(self, groups: list[list[str]], shelf: MemoryStore) -> None:
        self._groups, self._shelf = groups, shelf
        self._side = torch.cuda.Stream(shelf.device)
        self._slots: list[dict[str, _DeviceBuffer]] = []
        self._ready = [torch.cuda.Event() for _ in range(2)]
        self._free = [torch.cuda.Event() for _ in range(2)]
        self._count = 0
        self._coming: tuple[int, int] | None = None  # block, slot
        self._taken: int | None = None

    def take(self, i: int) -> Mapping[str, Tensor]:
        if self._coming is None or self._coming[0] != i:
            self._send(i)
        assert self._coming is not None
        slot = self._taken = self._coming[1]
        torch.cuda.current_stream(self._shelf.device).wait_event(self._ready[slot])
        here = {name: self._slots[slot][_name_in_block(name)].matrix for name in self._groups[i]}
        self._send((i + 1) % len(self._groups))
        return here

    def done(self) -> None:
        if self._taken is not None:
            self._free[self._taken].record(torch.cuda.current_stream(self._shelf.device))
            self._taken = None

    def rest(self) -> None:
        torch.cuda.current_stream(self._shelf.device).wait_stream(self._side)
        self._slots, self._coming, self._taken = [], None, None

    def _send(self, i: int) -> None:
        if not self._slots:
            self._slots = [
                {_name_in_block(name): _DeviceBuffer(self._shelf.held[name], self._shelf) for name in self._groups[i]}
                for _ in range(2)
            ]
            # Whatever used this memory before has to be over.
            self._side.wait_stream(torch.cuda.current_stream(self._shelf.device))
        slot = self._count % 2
        self._count += 1
        with torch.cuda.stream(self._side):
            self._side.wait_event(self._free[slot])
            for name in self._groups[i]:
                self._slots[slot][_name_in_block(name)].fill(self._shelf.held[name])
            self._ready[slot].record(self._side)
        self._coming = (i, slot)


def _prefetcher(
    groups: list[list[str]], shelf: WeightStore, like: Mapping[str, Tensor], device: torch.device
) -> DirectFetch | ThreadPrefetch | CudaStreamPrefetch:
    if isinstance(shelf, MemoryStore):
        crosses = shelf.place.type != shelf.device.type
        return CudaStreamPrefetch(groups, shelf) if crosses and device.type == "cuda" else DirectFetch(groups, shelf)
    return ThreadPrefetch(groups, shelf, like, device)


class _DeviceBuffer:
    """Place on the GPU for one matrix, and for its one-byte form where that is what crosses."""

    def __init__(self, like: Tensor | QuantizedMatrix, shelf: MemoryStore) -> None:
        numbers = like.numbers if isinstance(like, QuantizedMatrix) else like
        with torch.inference_mode(False):
            self.matrix = torch.empty(numbers.shape, dtype=shelf.dtype, device=shelf.device)
            self._numbers = (
                torch.empty_like(numbers, device=shelf.device) if isinstance(like, QuantizedMatrix) else self.matrix
            )

    def fill(self, held: Tensor | QuantizedMatrix) -> None:
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(held, QuantizedMatrix):
                self._numbers.copy_(held.numbers, non_blocking=True)
                self.matrix.copy_(self._numbers).mul_(held.scale)
            else:
                self.matrix.copy_(held, non_blocking=True)


def _trim_host_memory(device: torch.device) -> None:
    """What was freed on the CPU lies between what stays, where glibc would keep it."""
    if device.type == "cpu":
        release_memory()


def _name_in_block(name: str) -> str:
    """The name without its block's number: blocks have the same tensors."""
    return name.split(".", 2)[2]
