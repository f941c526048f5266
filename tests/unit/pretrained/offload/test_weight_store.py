"""Weights in main memory: page-locked for CUDA, and copied when used for other devices."""

import mmap
from contextlib import nullcontext

import pytest
import torch

from cogvideox.pretrained.offload import pinned_memory
from cogvideox.pretrained.offload.prefetch import DirectFetch, make_prefetcher
from cogvideox.pretrained.offload.weight_store import DiskStore, MemoryStore

CPU = torch.device("cpu")
GROUPS = [["a", "b"], ["c"]]
WEIGHTS = {"a": torch.randn(3, 5), "b": torch.randn(40, 33).bfloat16(), "c": torch.randn(2000, 3)}


class Driver:
    """A fake CUDA runtime that records registered memory and rejects a page that is registered already."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:
        pages = range(pointer // mmap.PAGESIZE, -(-(pointer + size) // mmap.PAGESIZE))
        registered = {page for start, n in self.registered.items() for page in range(start, start + n)}
        if self.status or registered & set(pages):
            return self.status or 712
        self.registered[pages.start] = len(pages)
        return 0

    def cudaHostUnregister(self, pointer: int) -> int:
        del self.registered[pointer // mmap.PAGESIZE]
        return 0


class Source(DiskStore):
    def __init__(self) -> None:
        pass

    def fetch(self, names):
        return {name: WEIGHTS[name] for name in names}


def store(device: str, **values) -> MemoryStore:
    return MemoryStore(Source(), GROUPS, location=CPU, device=torch.device(device), dtype=torch.float32, **values)


@pytest.fixture(params=[0, 1], ids=["registered", "refused"])
def driver(request, monkeypatch) -> Driver:
    driver = Driver(request.param)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(pinned_memory, "device_context", lambda device: nullcontext())
    return driver


def test_each_group_is_registered_in_separate_whole_pages(driver, monkeypatch):
    cleared = []
    monkeypatch.setattr(pinned_memory, "clear_last_error", cleared.append)
    memory_store = store("cuda")
    for name, weight in WEIGHTS.items():
        assert torch.equal(memory_store.tensors[name], weight) and memory_store.tensors[name].dtype == weight.dtype
        assert memory_store.tensors[name].data_ptr() % 256 == 0
    assert len(driver.registered) == (0 if driver.status else len(GROUPS))
    assert cleared == ([memory_store.device] * len(GROUPS) if driver.status else [])  # or the next launch would raise
    del memory_store
    assert not driver.registered


def test_quantized_weights_are_registered_as_well(driver, monkeypatch):
    monkeypatch.setattr(pinned_memory, "clear_last_error", lambda device: None)
    memory_store = store("cuda", format="int8")
    assert len(driver.registered) == (0 if driver.status else len(GROUPS))
    assert (memory_store.tensors["a"].dequantize(torch.float32) - WEIGHTS["a"]).abs().max() < 0.02 * WEIGHTS[
        "a"
    ].abs().max()


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_without_cuda_tensors_are_fetched_directly(device):
    memory_store = store(device)
    assert isinstance(make_prefetcher(GROUPS, memory_store, {}, memory_store.device), DirectFetch)


def test_the_last_cuda_error_is_cleared(monkeypatch):
    def launch(*args: object, **values: object) -> None:
        raise RuntimeError("CUDA error: part or all of the requested memory range is already mapped")

    monkeypatch.setattr(torch, "ones", launch)
    pinned_memory.clear_last_error(CPU)
