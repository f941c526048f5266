"""Prefetch batches in worker processes while the device processes earlier batches.

A batch depends only on its key, and batches are yielded in the order of their keys. The result therefore does not
depend on the number of workers, and workers have no state to restore when a run is resumed.
"""

import io
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory as to_pinned_memory

from cogvideox.errors import UserError

Key = TypeVar("Key")
Batch = TypeVar("Batch")
TensorTuple = TypeVar("TensorTuple", bound=tuple[Tensor, ...])


def prefetch(
    make_batch: Callable[[Key], Batch], keys: Iterable[Key], *, workers: int = 0, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Yield `make_batch(key)` for every key, in order. Each worker prefetches up to two batches.

    Keys are consumed lazily in this process. With `workers` = 0, batches are made on demand in this process; otherwise
    `make_batch` and its result must be picklable. Errors in `make_batch` are raised when their batch is due, with the
    worker's traceback as a note. Workers ignore Ctrl-C and SIGTERM, which this process handles; they exit with the
    iterator, or soon after this process.

    Args:
        workers: number of processes, limited to the number of CPU cores.
        pin_memory: with CUDA, put tensors in pinned memory for asynchronous copies.

    Raises:
        UserError: a worker was killed, or a batch does not fit in shared memory.
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
    earlier_processes = set(multiprocessing.active_children())
    results = _start(loader)
    processes = set(multiprocessing.active_children()) - earlier_processes
    try:
        for result in results:
            if isinstance(result, _Failure):
                result.error.add_note(result.traceback)
                raise result.error
            yield result
    except (RuntimeError, OSError, EOFError) as error:
        codes = [process.exitcode for process in processes if process.exitcode is not None]
        if not any(codes):  # the error is from `make_batch` or from the caller
            raise
        raise UserError(_killed_message(codes)) from error
    finally:
        del results  # ends the workers, also while a traceback holds this frame


def _start(loader: DataLoader) -> Iterator[Any]:
    """Start the workers without torch's SIGCHLD handler, which raises in arbitrary code when a worker exits."""
    in_main_thread = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    previous_handler = signal.getsignal(signal.SIGCHLD) if in_main_thread else None
    try:
        return iter(loader)
    except OSError as error:
        raise UserError(_shared_memory_message(error)) from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGCHLD, previous_handler or signal.SIG_DFL)


def _killed_message(codes: Sequence[int]) -> str:
    """Return the error message for workers that exited with these codes."""
    signals = [signal.Signals(-code).name for code in codes if code < 0]
    reasons = {"SIGKILL": ", probably because memory ran out", "SIGBUS": ": /dev/shm is probably too small"}
    reason = f" by {signals[0]}{reasons.get(signals[0], '')}" if signals else ""
    return f"a data loader worker was killed{reason}; use fewer workers, for example run.workers=0"


def _shared_memory_message(error: Exception) -> str:
    return (
        f"prefetched batches do not fit in shared memory ({error}): make /dev/shm larger, in a container with "
        "docker run --shm-size=1g, or set run.workers=0"
    )


def to_device(tensors: TensorTuple, device: torch.device) -> TensorTuple:
    """Copy the tensors of a named tuple to a device, asynchronously if they are in pinned memory."""
    return type(tensors)(*(tensor.to(device, non_blocking=True) for tensor in tensors))


class _Failure(NamedTuple):
    error: Exception
    traceback: str


class _BatchDataset(Dataset, Generic[Key, Batch]):
    """Batches by key. Returns errors instead of raising them, because `DataLoader` changes their messages."""

    def __init__(self, make_batch: Callable[[Key], Batch]) -> None:
        self.make_batch = make_batch

    def __getitem__(self, key: Key) -> Batch | _Failure:
        try:
            batch = self.make_batch(key)
        except Exception as error:
            return _Failure(error, f"in a worker:\n{traceback.format_exc()}")
        # The loader would pickle the batch in a thread, and after an error there the main process would wait forever.
        try:
            _TensorSharer(io.BytesIO()).dump(batch)
        except (RuntimeError, OSError) as error:
            return _Failure(UserError(_shared_memory_message(error)), "")
        except Exception as error:
            return _Failure(TypeError(f"a batch cannot be sent to another process: {error}"), "")
        return batch


class _TensorSharer(pickle.Pickler):
    """Pickler that moves all tensors of an object to shared memory."""

    def persistent_id(self, obj: Any) -> str | None:
        return None if not isinstance(obj, Tensor) else str(obj.share_memory_().data_ptr())


def _identity(batch: Any) -> Any:
    return batch


def _ignore_signals(_: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
