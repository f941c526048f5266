"""Prefetch: batches are made by worker processes while the device works on earlier ones.

A batch depends on its key alone, and batches come in the order of their keys. So the number of workers makes no
difference, and no worker holds state that a resumed run would have to restore.
"""

import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory as to_pinned_memory

Key = TypeVar("Key")
Batch = TypeVar("Batch")
TensorTuple = TypeVar("TensorTuple", bound=tuple[Tensor, ...])


def prefetch(
    make_batch: Callable[[Key], Batch], keys: Iterable[Key], *, workers: int = 0, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Yield `make_batch(key)` for every key, in order; each worker makes up to two batches ahead.

    Keys are consumed in this process, as they are needed. With `workers` = 0, batches are made here, on demand. Else
    `make_batch` and its result must be picklable. Errors of `make_batch` are raised here when their batch is due, with
    the worker's traceback as a note. Workers ignore Ctrl-C and SIGTERM, which this process handles; they end with the
    iterator, or soon after this process.

    Args:
        workers: number of processes, limited to the number of CPU cores.
        pin_memory: with CUDA, put tensors in pinned memory, from which they are copied asynchronously.
    """
    pin_memory = pin_memory and torch.cuda.is_available()
    if workers == 0:
        for key in keys:
            yield to_pinned_memory(make_batch(key)) if pin_memory else make_batch(key)
        return
    loader = DataLoader(
        _BatchDataset(make_batch),
        batch_size=None,
        sampler=keys,  # pyrefly: ignore[bad-argument-type]
        collate_fn=_identity,
        num_workers=min(workers, os.cpu_count() or 1),
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )
    for result in loader:
        if isinstance(result, _Failure):
            result.error.add_note(result.traceback)
            raise result.error
        yield result


def to_device(tensors: TensorTuple, device: torch.device) -> TensorTuple:
    """Copy the tensors of a named tuple to a device; from pinned memory, asynchronously."""
    return type(tensors)(*(tensor.to(device, non_blocking=True) for tensor in tensors))


class _Failure(NamedTuple):
    error: Exception
    traceback: str


class _BatchDataset(Dataset, Generic[Key, Batch]):
    """Batches by key. Errors are returned instead of raised, because the data loader would change their messages."""

    def __init__(self, make_batch: Callable[[Key], Batch]) -> None:
        self.make_batch = make_batch

    def __getitem__(self, key: Key) -> Batch | _Failure:
        try:
            return self.make_batch(key)
        except Exception as error:
            return _Failure(error, f"in a worker:\n{traceback.format_exc()}")


def _identity(batch: Any) -> Any:
    return batch


def _ignore_signals(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
