"""A pool of processes on this machine."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

from cogvideox.errors import UserError
from cogvideox.executor.base import Result, Row, Task

_KILLED = (
    "a worker process was killed, most likely because the memory did not suffice: take fewer workers and run this again"
)

# In a worker: what it does with a batch, and whether it is doing it.
_work: Callable[[Sequence[Any]], Any]
_busy = False


def run(stage: Task[Row, Result], batches: Iterable[Sequence[Row]], workers: int) -> Iterator[Result]:
    """See `stage.run`."""
    if workers == 0:
        work = stage.open(0)
        yield from map(work, batches)
        return
    # Not forked: a copy of a process that runs threads or holds a GPU may hang.
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    pool = ProcessPoolExecutor(workers, context, initializer=_open, initargs=(pickle.dumps(stage), numbers))
    try:
        waiting: deque[Future[Any]] = deque()
        batches = iter(batches)
        # Two each: one that is worked on, and one that is there when it is done.
        waiting.extend(pool.submit(_do, batch) for batch in islice(batches, 2 * workers))
        while waiting:
            answer = waiting.popleft().result()
            waiting.extend(pool.submit(_do, batch) for batch in islice(batches, 1))
            yield answer
    except BrokenProcessPool as error:
        raise UserError(_KILLED) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _open(stage: bytes, numbers: Any) -> None:
    """Begins a worker: Ctrl-C ends what it is doing and nothing else, and with the parent it ends."""
    global _work
    signal.signal(signal.SIGINT, _interrupt)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    try:
        _work = pickle.loads(stage).open(numbers.get())
    except Exception as error:
        # A pool whose workers do not begin is only broken; told with the first batch, the reason arrives.
        _work = _raise(error)


def _do(batch: Sequence[Any]) -> Any:
    global _busy
    _busy = True
    try:
        return _work(batch)
    except Exception as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        raise
    finally:
        _busy = False


def _interrupt(*_: Any) -> None:
    if _busy:
        raise KeyboardInterrupt


def _raise(error: Exception) -> Callable[[Sequence[Any]], Any]:
    def work(_: Sequence[Any]) -> Any:
        raise error

    return work
