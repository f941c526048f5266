"""The local backend: a pool of worker processes on this machine."""

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
from cogvideox.executor.base import BatchTask, Result, Row

_KILLED = "a worker process was killed, probably because memory ran out: run it again with fewer workers (--workers)"

_THREADS = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Variables that PyTorch and OpenCV read when they are loaded."""

# State of a worker process: the function that processes a batch, and whether it is running.
_work: Callable[[Sequence[Any]], Any]
_busy = False


def run(task: BatchTask[Row, Result], batches: Iterable[Sequence[Row]], workers: int) -> Iterator[Result]:
    """Run a batch task in local processes: see `executor.run.run`."""
    if workers == 0:
        yield from map(task.open(0), batches)
        return
    pool = start_pool(task, workers)
    try:
        pending: deque[Future[Any]] = deque()
        batches = iter(batches)
        # Two batches per worker: the current one and the next one.
        pending.extend(pool.submit(process, batch) for batch in islice(batches, 2 * workers))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(process, batch) for batch in islice(batches, 1))
            yield result
    except BrokenProcessPool as error:
        raise UserError(_KILLED) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_pool(task: BatchTask[Row, Result], workers: int) -> ProcessPoolExecutor:
    """Start a pool of worker processes that open the task. Submit `process` with a batch to it."""
    context = multiprocessing.get_context("spawn")  # forking a process with threads or a GPU context may deadlock
    indices = context.SimpleQueue()
    for index in range(workers):
        indices.put(index)
    threads = max(1, (os.cpu_count() or 1) // workers)
    arguments = pickle.dumps(task), indices, threads
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=arguments)


def _start_worker(task: bytes, indices: Any, threads: int) -> None:
    """Initialize a worker process. Ctrl-C interrupts only a running batch, and the worker exits with its parent.

    Args:
        threads: number of threads of PyTorch and OpenCV, unless the environment sets it.
    """
    global _work
    for variable in _THREADS:
        os.environ.setdefault(variable, str(threads))
    signal.signal(signal.SIGINT, _interrupt)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    try:
        _work = pickle.loads(task).open(indices.get())
    except Exception as error:
        # An error in the initializer would break the pool and lose its message, so it is raised for the first batch.
        _work = _raising(error)


def process(batch: Any) -> Any:
    """Process a batch in a worker."""
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


def _raising(error: Exception) -> Callable[[Sequence[Any]], Any]:
    def work(_: Sequence[Any]) -> Any:
        raise error

    return work
