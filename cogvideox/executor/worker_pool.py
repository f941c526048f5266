"""Worker processes that process batches of a task, each with its own pipe.

`concurrent.futures.ProcessPoolExecutor` shares queues between its workers, and a submission at the moment when a worker
dies may be lost there: its future never completes. Here a dead worker affects only its own batches.
"""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from cogvideox.errors import UserError
from cogvideox.executor.base import BatchTask

KILLED = "a worker process was killed, probably because memory ran out: run it again with fewer workers (--workers)"

_THREADS = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Variables that PyTorch and OpenCV read when they are loaded."""

_CLOSE = b""
"""Message that ends a worker."""

_EXIT_SECONDS = 10.0
"""Time that a process may take to exit."""


@dataclass(frozen=True)
class Finished:
    """A processed batch.

    Attributes:
        index: number of batches submitted before this one.
        error: the exception that the task raised; None if it succeeded.
    """

    index: int
    batch: Any
    result: Any
    error: Exception | None = None


@dataclass(frozen=True)
class Died:
    """A worker process that died. `batches` are those that it did not finish; it was processing the first of them."""

    batches: Sequence[Any]


@dataclass(eq=False)
class _Worker:
    index: int
    process: BaseProcess
    connection: Connection
    batches: deque[tuple[int, Any]] = field(default_factory=deque)  # sent and not finished, with their indices

    def sources(self) -> tuple[Connection, int]:
        """Return what becomes ready when a batch is finished or the process ends."""
        return self.connection, self.process.sentinel

    def join(self) -> None:
        """Wait until the process, which has closed its connection, has exited. Kill it if that takes too long."""
        self.process.join(_EXIT_SECONDS)
        self.process.kill()
        self.process.join()


class WorkerPool:
    """Processes that open the same task. Use as a context manager; at its end, running batches are finished first.

    Workers are started when there are batches for them, and replaced if they die. Ctrl-C interrupts only running
    batches; idle workers exit with their parent.

    Args:
        first_index: index that the first worker gets in `task.open`.
        processes: number of workers of all pools that share the cores; None if there is no other pool.
    """

    def __init__(self, task: BatchTask, workers: int, *, first_index: int = 0, processes: int | None = None) -> None:
        self._task, self._max_workers, self._first_index = pickle.dumps(task), workers, first_index
        self._threads = max(1, (os.cpu_count() or 1) // (processes or workers))
        self._workers: list[_Worker] = []
        self._indices = itertools.count()
        # Not forked: forking a process with threads or a GPU context may deadlock.
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers when they have finished the batches that they are processing; others are canceled."""
        for worker in self._workers:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the worker is dead
                worker.connection.send_bytes(_CLOSE)
        for worker in self._workers:
            while worker.process.is_alive():  # read results, which a worker may be waiting to send
                self._receive(worker)
            worker.connection.close()
        self._workers.clear()

    @property
    def num_pending(self) -> int:
        """Number of submitted batches that are neither finished nor lost with a worker."""
        return sum(len(worker.batches) for worker in self._workers)

    def submit(self, batch: Any) -> None:
        """Send a batch to the worker with the fewest batches. Submit at most two per worker, to bound memory."""
        worker = min(self._workers, key=lambda worker: len(worker.batches), default=None)
        if worker is None or (worker.batches and len(self._workers) < self._max_workers):
            worker = self._start()
        worker.batches.append((next(self._indices), batch))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # if the worker is dead, `wait` returns it
            worker.connection.send(batch)

    def wait(self) -> list[Finished | Died]:
        """Wait until at least one batch is finished or a worker died."""
        events: list[Finished | Died] = []
        while not events:
            ready = wait([source for worker in self._workers for source in worker.sources()])
            workers = [worker for worker in self._workers if any(source in ready for source in worker.sources())]
            events = [event for worker in workers for event in self._events(worker)]
        return events

    def wait_for_result(self) -> Any:
        """Wait for the only submitted batch, and return its result.

        Raises:
            UserError: its worker was killed. Errors raised by the task are re-raised.
        """
        assert self.num_pending == 1
        event = self.wait()[0]
        if isinstance(event, Died):
            raise UserError(KILLED)
        if event.error is not None:
            raise event.error
        return event.result

    def _events(self, worker: _Worker) -> list[Finished | Died]:
        alive = worker.process.is_alive()  # before the results are read, so that none of a dead worker is missed
        events: list[Finished | Died] = []
        while (event := self._receive(worker, seconds=0.0)) is not None:
            events.append(event)
        if not alive:
            worker.connection.close()
            self._workers.remove(worker)
            events.append(Died([batch for _, batch in worker.batches]))
        return events

    def _receive(self, worker: _Worker, seconds: float = 0.1) -> Finished | None:
        try:
            if not worker.connection.poll(seconds):
                return None
            result, error = worker.connection.recv()
        except (EOFError, OSError):  # the worker died or is exiting
            worker.join()
            return None
        return Finished(*worker.batches.popleft(), result, error)

    def _start(self) -> _Worker:
        used = {worker.index for worker in self._workers}
        index = next(index for index in itertools.count(self._first_index) if index not in used)
        connection, child_connection = self._context.Pipe()
        arguments = child_connection, self._task, index, self._threads
        process = self._context.Process(target=_run_worker, args=arguments, daemon=True)
        process.start()
        child_connection.close()  # so that the end of the worker closes the pipe
        worker = _Worker(index, process, connection)
        self._workers.append(worker)
        return worker


def _run_worker(connection: Connection, task: bytes, index: int, threads: int) -> None:
    """Run a worker process. It exits without the cleanup of libraries, in which it may hang."""
    _process_batches(connection, task, index, threads)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _process_batches(connection: Connection, task: bytes, index: int, threads: int) -> None:
    """Process batches until `_CLOSE` is received. They are received by a thread, so that sending never waits for work.

    The thread does not unpickle them: that may import modules, which the main thread may be importing at that time.

    Args:
        threads: number of threads of PyTorch and OpenCV, unless the environment sets it.
    """
    busy, closed = False, threading.Event()
    batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def interrupt(*_: object) -> None:
        if busy:
            raise KeyboardInterrupt

    def receive() -> None:
        try:
            while (batch := connection.recv_bytes()) != _CLOSE:
                batches.put(batch)
        except (EOFError, OSError):
            os._exit(1)  # the parent ended
        closed.set()
        batches.put(_CLOSE)

    signal.signal(signal.SIGINT, interrupt)
    for variable in _THREADS:
        os.environ.setdefault(variable, str(threads))
    threading.Thread(target=receive, daemon=True).start()
    work, error = None, None
    try:
        work = pickle.loads(task).open(index)
    except Exception as opening_error:
        error = opening_error  # raised for the first batch
    while (batch := batches.get()) != _CLOSE and not closed.is_set():
        try:
            busy = True
            if work is None:
                assert error is not None
                raise error
            message = work(pickle.loads(batch)), None
        except KeyboardInterrupt:
            return
        except Exception as task_error:
            message = None, _picklable(task_error)
        finally:
            busy = False
        try:
            connection.send(message)
        except OSError:
            return
        except Exception as send_error:  # a result that cannot be pickled
            connection.send((None, _picklable(send_error)))


def _picklable(error: Exception) -> Exception:
    """Return the error with its traceback as a note; an error that cannot be pickled becomes a `RuntimeError`."""
    note = f"in a worker:\n{''.join(traceback.format_exception(error))}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
