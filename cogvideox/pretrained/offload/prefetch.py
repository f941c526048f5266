"""Prefetching of block weights. Blocks are used in a cycle: the first block follows the last."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cogvideox.pretrained.offload.weight_quantization import QuantizedMatrix
from cogvideox.pretrained.offload.weight_store import DiskStore, MemoryStore, QuantizedDiskStore, WeightStore
from cogvideox.vae.inference.host_memory import release_memory


def make_prefetcher(
    groups: list[list[str]], store: WeightStore, meta: Mapping[str, Tensor], device: torch.device
) -> "DirectFetch | ThreadPrefetch | CudaStreamPrefetch":
    """Create the fastest prefetcher for a weight store.

    Args:
        groups: names of the tensors of each block.
        meta: shapes and dtypes of the tensors, on the meta device.
    """
    if isinstance(store, MemoryStore):
        is_copied = store.location.type != store.device.type
        return CudaStreamPrefetch(groups, store) if is_copied and device.type == "cuda" else DirectFetch(groups, store)
    return ThreadPrefetch(groups, store, meta, device)


class DirectFetch:
    """Fetches each block when it is used, without prefetch; tensors on the device are only dequantized."""

    def __init__(self, groups: list[list[str]], store: MemoryStore) -> None:
        self._groups, self._store = groups, store

    def get(self, i: int) -> Mapping[str, Tensor]:
        """Return the tensors of block i. Other prefetchers also start fetching the next block."""
        return self._store.fetch(self._groups[i])

    def done(self) -> None:
        """Allow the tensors of the last `get` to be overwritten."""

    def reset(self) -> None:
        """Drop prefetched tensors and buffers; the next `get` allocates them again."""


class ThreadPrefetch:
    """Reads and casts the next block in a thread while the current one is used (double buffering)."""

    def __init__(
        self,
        groups: list[list[str]],
        store: DiskStore | QuantizedDiskStore,
        meta: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self._groups, self._store, self._meta, self._device = groups, store, meta, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._buffers: list[dict[str, Tensor]] = []
        self._num_started = 0
        self._pending: tuple[int, Future[dict[str, Tensor]]] | None = None

    def get(self, i: int) -> Mapping[str, Tensor]:
        if self._pending is None or self._pending[0] != i:
            self._start(i)
        assert self._pending is not None
        future, self._pending = self._pending[1], None  # raise an error only once
        tensors = future.result()
        self._start((i + 1) % len(self._groups))
        return tensors

    def done(self) -> None:
        pass

    def reset(self) -> None:
        if self._pending is not None:
            self._pending[1].exception()  # waits for the thread; errors are ignored, because the block is not used
        self._buffers, self._pending = [], None
        trim_host_memory(self._device)

    def _start(self, i: int) -> None:
        if not self._buffers:
            with torch.inference_mode(False):
                self._buffers = [
                    {
                        _name_in_block(name): torch.empty_like(self._meta[name], device=self._device)
                        for name in self._groups[i]
                    }
                    for _ in range(2)
                ]
        buffer = self._buffers[self._num_started % 2]
        self._num_started += 1
        out = {name: buffer[_name_in_block(name)] for name in self._groups[i]}
        # Kernels that read the buffer may still be queued, so the copy uses their stream and runs after them.
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        self._pending = (i, self._thread.submit(self._fill, self._groups[i], out, stream))

    def _fill(self, names: list[str], out: dict[str, Tensor], stream: torch.cuda.Stream | None) -> dict[str, Tensor]:
        with torch.cuda.stream(stream), torch.no_grad():  # no-op without a stream
            self._store.fill(names, out)
        trim_host_memory(self._device)
        return out


class CudaStreamPrefetch:
    """Copies the next block to the GPU on a separate stream during the current block's computation (double buffering).

    Nothing is allocated per block. Events synchronize the streams without blocking the CPU: computation waits for the
    copy of its block, and a copy waits until its buffer is no longer in use.
    """

    def __init__(self, groups: list[list[str]], store: MemoryStore) -> None:
        self._groups, self._store = groups, store
        self._stream = torch.cuda.Stream(store.device)
        self._buffers: list[dict[str, _DeviceBuffer]] = []
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._computed = [torch.cuda.Event() for _ in range(2)]
        self._num_started = 0
        self._pending: tuple[int, int] | None = None  # block, buffer
        self._in_use: int | None = None

    def get(self, i: int) -> Mapping[str, Tensor]:
        if self._pending is None or self._pending[0] != i:
            self._start(i)
        assert self._pending is not None
        buffer = self._in_use = self._pending[1]
        torch.cuda.current_stream(self._store.device).wait_event(self._copied[buffer])
        tensors = {name: self._buffers[buffer][_name_in_block(name)].matrix for name in self._groups[i]}
        self._start((i + 1) % len(self._groups))
        return tensors

    def done(self) -> None:
        if self._in_use is not None:
            self._computed[self._in_use].record(torch.cuda.current_stream(self._store.device))
            self._in_use = None

    def reset(self) -> None:
        torch.cuda.current_stream(self._store.device).wait_stream(self._stream)
        self._buffers, self._pending, self._in_use = [], None, None

    def _start(self, i: int) -> None:
        tensors = {_name_in_block(name): self._store.tensors[name] for name in self._groups[i]}
        if not self._buffers:
            self._buffers = [
                {name: _DeviceBuffer(tensor, self._store) for name, tensor in tensors.items()} for _ in range(2)
            ]
            # Wait for kernels that used this memory before.
            self._stream.wait_stream(torch.cuda.current_stream(self._store.device))
        buffer = self._num_started % 2
        self._num_started += 1
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._computed[buffer])
            for name, tensor in tensors.items():
                self._buffers[buffer][name].fill(tensor)
            self._copied[buffer].record(self._stream)
        self._pending = (i, buffer)


class _DeviceBuffer:
    """GPU buffer for one matrix and, if it is stored quantized, for its quantized values."""

    def __init__(self, like: Tensor | QuantizedMatrix, store: MemoryStore) -> None:
        values = like.values if isinstance(like, QuantizedMatrix) else like
        with torch.inference_mode(False):
            self.matrix = torch.empty(values.shape, dtype=store.dtype, device=store.device)
            is_quantized = isinstance(like, QuantizedMatrix)
            self._values = torch.empty_like(values, device=store.device) if is_quantized else self.matrix

    def fill(self, stored: Tensor | QuantizedMatrix) -> None:
        """Copy a matrix asynchronously, and dequantize it."""
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(stored, QuantizedMatrix):
                self._values.copy_(stored.values, non_blocking=True)
                self.matrix.copy_(self._values).mul_(stored.scale)
            else:
                self.matrix.copy_(stored, non_blocking=True)


def trim_host_memory(device: torch.device) -> None:
    """On a CPU, return freed memory to the operating system; glibc keeps free blocks between live allocations."""
    if device.type == "cpu":
        release_memory()


def _name_in_block(name: str) -> str:
    """Strip "blocks.N." from a name. All blocks have the same tensors."""
    return name.split(".", 2)[2]
