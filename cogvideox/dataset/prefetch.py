"""Batches made ahead of time, in processes of their own, while the device works on the ones before.

What is made for a key depends on the key alone, and things come in the order of their keys. So it makes no difference
how many processes there are, and none of them holds a state that resuming would have to restore.
"""

import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

Key = TypeVar("Key")
Made = TypeVar("Made")
Parts = TypeVar("Parts", bound=tuple[Tensor, ...])


def ahead(
    make: Callable[[Key], Made], keys: Iterable[Key], *, workers: int = 0, pin: bool = False
) -> Generator[Made, None, None]:
    """Yields `make(key)` for every key, in order, up to two for each worker ahead of the one asked for. Keys are asked
    for as they are needed, in this process.

    With `workers` = 0 each is made when it is asked for, here. Otherwise by so many processes, but no more than there
    are processor cores; `make` and what it returns have to be picklable. What `make` raises is raised here, when its
    turn comes, with the worker's traceback as a note. Signals are this process's business: the workers ignore Ctrl-C
    and SIGTERM, and end with the iterator or soon after this process.

    Args:
        pin: where there is CUDA, put the tensors into pinned memory, from which they are copied without waiting.
    """
    pin = pin and torch.cuda.is_available()
    if workers == 0:
        for key in keys:
            yield pin_memory(make(key)) if pin else make(key)
        return
    loader = DataLoader(
        _Answers(make),
        batch_size=None,
        sampler=keys,  # pyrefly: ignore[bad-argument-type]
        collate_fn=_unchanged,
        num_workers=min(workers, os.cpu_count() or 1),
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    for answer in loader:
        if isinstance(answer, _Failure):
            answer.error.add_note(answer.where)
            raise answer.error
        yield answer


def to_device(parts: Parts, device: torch.device) -> Parts:
    """The tensors of a named tuple on a device; from pinned memory, without waiting for it."""
    return type(parts)(*(part.to(device, non_blocking=True) for part in parts))


class _Failure(NamedTuple):
    error: Exception
    where: str


class _Answers(Dataset, Generic[Key, Made]):
    """What `make` returns for a key, or what it raised: a loader would raise it under another message."""

    def __init__(self, make: Callable[[Key], Made]) -> None:
        self.make = make

    def __getitem__(self, key: Key) -> Made | _Failure:
        try:
            return self.make(key)
        except Exception as error:
            return _Failure(error, f"in a worker:\n{traceback.format_exc()}")


def _unchanged(made: Any) -> Any:
    return made


def _leave_signals_to_the_parent(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
