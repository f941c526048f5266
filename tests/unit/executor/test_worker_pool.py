import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cogvideox.executor.worker_pool import Died, Finished, WorkerPool

LARGE = 2**20  # bytes, more than a pipe holds


class TwoArguments(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class NotUnpicklable:
    """A batch that cannot be unpickled."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("not a number",)


@dataclass(frozen=True)
class Obey:
    """Batch task that does what the batch says."""

    def open(self, worker: int) -> Callable[[Any], Any]:
        def work(batch: Any) -> Any:
            match batch:
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "lock":
                    return threading.Lock()
                case "raise":
                    raise TwoArguments("bad", "luck")
                case "threads":
                    return os.environ["OMP_NUM_THREADS"]
                case "interrupt":
                    os.kill(os.getpid(), signal.SIGINT)
            return batch

        return work


def finished(pool: WorkerPool, count: int) -> list[Finished]:
    events: list[Finished | Died] = []
    while len(events) < count:
        events += pool.wait()
    assert all(isinstance(event, Finished) for event in events)
    return sorted(events, key=lambda event: event.index)


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(Obey(), 1) as pool:
        yield pool


def test_batches_and_results_larger_than_a_pipe_do_not_block(pool):
    batches = [bytes(LARGE), bytes(LARGE), bytes(LARGE)]
    for batch in batches:
        pool.submit(batch)
    assert [event.result for event in finished(pool, 3)] == batches
    assert pool.num_pending == 0


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ("lock", TypeError, "cannot pickle"),
        ("raise", RuntimeError, "TwoArguments: badluck"),
        (NotUnpicklable(), ValueError, "not a number"),
    ],
)
def test_what_cannot_be_pickled_is_an_error_of_its_batch(pool, batch, error, message):
    pool.submit(batch)
    pool.submit("fine")
    first, second = finished(pool, 2)
    assert isinstance(first.error, error) and message in str(first.error)
    assert "in a worker:\nTraceback" in first.error.__notes__[0]
    assert (second.result, second.error) == ("fine", None)


@pytest.mark.parametrize("failure", ["die", "interrupt"])
def test_a_dead_worker_returns_its_unfinished_batches_and_is_replaced(failure):
    with WorkerPool(Obey(), 1) as pool:
        for batch in ("fine", failure, "next"):
            pool.submit(batch)
        events = pool.wait()
        while len(events) < 2:
            events += pool.wait()
        assert isinstance(events[0], Finished) and events[0].result == "fine"
        assert events[1:] == [Died([failure, "next"])]
        pool.submit("again")
        assert finished(pool, 1)[0].result == "again"


def test_closing_the_pool_cancels_batches_that_have_not_started():
    with WorkerPool(Obey(), 2) as pool:
        for _ in range(8):
            pool.submit(bytes(LARGE))
    assert pool.num_pending == 0


def test_workers_of_several_pools_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with WorkerPool(Obey(), 1, processes=4) as pool:
        pool.submit("threads")
        assert finished(pool, 1)[0].result == "2"
