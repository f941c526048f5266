import multiprocessing
import os
import resource
import signal
import threading
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from cogvideox.dataset.prefetch import prefetch, to_device
from cogvideox.errors import UserError

with_and_without_workers = pytest.mark.parametrize("workers", [0, 2])


class Pair(NamedTuple):
    """A batch: a named tuple of tensors, one of them not contiguous."""

    values: Tensor
    transposed: Tensor


def pair(key: int) -> Pair:
    generator = torch.Generator().manual_seed(key)
    return Pair(torch.randn(3, generator=generator), torch.randn(2, 4, generator=generator).T)


def fail_on_two(key: int) -> int:
    if key == 2:
        raise UserError("batch 2 failed")
    return key


def send_signals_to_self(key: int) -> int:
    """Send SIGINT and SIGTERM to this process, and return its id."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), signum)
    return os.getpid()


@with_and_without_workers
def test_batches_are_yielded_in_key_order(workers):
    keys = [5, 3, 8, 1, 9]
    batches = list(prefetch(pair, keys, workers=workers))
    for key, (values, transposed) in zip(keys, batches, strict=True):
        assert torch.equal(values, pair(key).values) and torch.equal(transposed, pair(key).transposed)
        # Results are bit-identical only with equal strides.
        assert transposed.stride() == pair(key).transposed.stride()


def test_tensors_are_pinned_without_workers_as_well(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor, *_: pinned.append(tensor) or tensor)
    batches = list(prefetch(pair, [5, 3], pin_memory=True))
    assert [tuple(batch) for batch in batches] == [tuple(pinned[:2]), tuple(pinned[2:])]
    list(prefetch(pair, [5], pin_memory=False))
    assert len(pinned) == 4


@with_and_without_workers
def test_an_error_is_raised_when_its_batch_is_due(workers):
    batches = prefetch(fail_on_two, range(5), workers=workers)
    assert next(batches) == 0 and next(batches) == 1
    with pytest.raises(UserError, match="batch 2 failed") as error:
        next(batches)
    assert workers == 0 or "fail_on_two" in error.value.__notes__[0]


def test_workers_ignore_signals_and_end_when_the_iterator_is_closed():
    before = len(multiprocessing.active_children())
    with closing(prefetch(send_signals_to_self, range(100), workers=1)) as batches:
        assert next(batches) == next(batches) != os.getpid()
        assert len(multiprocessing.active_children()) == before + 1
    assert len(multiprocessing.active_children()) == before


def fill_shared_memory(key: int) -> Pair:
    """Simulate a full /dev/shm after the first batch."""
    if key == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return Pair(torch.ones(10**6), torch.ones(1))


def die(key: int, signum: int) -> int:
    if key == 1:
        os.kill(os.getpid(), signum)
    return key


def return_unpicklable(key: int) -> Any:
    return key if key == 0 else threading.Lock()


@pytest.mark.parametrize(
    ("make_batch", "error", "message"),
    [
        (fill_shared_memory, UserError, r"do not fit in shared memory .* --shm-size=1g, or set run\.workers=0"),
        (partial(die, signum=signal.SIGKILL), UserError, "killed by SIGKILL, probably because memory ran out"),
        (partial(die, signum=signal.SIGBUS), UserError, "killed by SIGBUS: /dev/shm is probably too small"),
        (
            partial(die, signum=signal.SIGSEGV),
            UserError,
            r"killed by SIGSEGV; use fewer workers, .* run\.workers=0",
        ),
        (return_unpicklable, TypeError, "cannot be sent to another process"),
    ],
    ids=["full", "killed", "bus error", "crash", "no pickle"],
)
def test_failed_worker_raises_its_error(make_batch, error, message):
    before, handler = len(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
    batches = prefetch(make_batch, range(100), workers=1)
    with pytest.raises(error, match=message):
        all(signal.getsignal(signal.SIGCHLD) == handler for _ in batches)
    assert len(multiprocessing.active_children()) == before


def test_without_workers_batches_are_made_on_demand():
    batches: list[int] = []
    iterator = prefetch(partial(_record, batches), range(3))
    assert batches == [] and next(iterator) == 0 and batches == [0]


def _record(batches: list[int], key: int) -> int:
    batches.append(key)
    return key


def test_to_device_keeps_the_named_tuple():
    moved = to_device(pair(1), torch.device("meta"))
    assert type(moved) is Pair and {part.device.type for part in moved} == {"meta"}
