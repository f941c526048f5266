"""Process a feed of batches that grows with the results: a file yields clips, which are processed before the next file.

Results are yielded in the order in which they finish. A batch whose worker process dies does not end the run.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import psutil

from cogvideox.executor.base import Backend, BatchTask, NextBatch, Outcome
from cogvideox.executor.local import process, start_pool


def run_feed(
    tasks: Sequence[BatchTask], next_batch: NextBatch, *, workers: int = 0, backend: Backend = "local"
) -> Iterator[Outcome]:
    """Yield the outcome of every batch. Handle each outcome, which may add batches, before requesting the next.

    Each worker opens a task at most once, for its first batch. At most two batches per worker are queued, so that
    batches added by results come soon if `next_batch` returns them first (depth first).

    Args:
        workers: number of processes; 0 means this process or, with Ray, one per GPU (or CPU) of the cluster.
        backend: "local" runs on this machine; "ray" uses Ray Data on the cluster at `RAY_ADDRESS`, or on this machine
            if it is not set.

    Raises:
        UserError: Ray is not installed. Errors raised by a task are re-raised.
    """
    if backend == "ray":
        from cogvideox.executor import ray_data

        yield from ray_data.run_feed(tasks, next_batch, workers)
    elif workers == 0:
        work = _Tasks(tuple(tasks)).open(0)
        while (batch := next_batch()) is not None:
            yield Outcome(*batch, work(batch))
    else:
        yield from _run_pool(_Tasks(tuple(tasks)), next_batch, workers)


def workers_for_memory(workers: int, memory: int, reserve: int = 2**30) -> int:
    """Limit a number of workers so that each has `memory` bytes of free memory; at least 1."""
    free = psutil.virtual_memory().available - reserve
    return max(1, min(workers, free // max(memory, 1)))


def _run_pool(task: "_Tasks", next_batch: NextBatch, workers: int) -> Iterator[Outcome]:
    pool = start_pool(task, workers)
    pending: dict[Future[Any], tuple[int, Sequence[Any]]] = {}
    suspects: deque[tuple[int, Sequence[Any]]] = deque()  # batches in progress when a worker died

    def submit(batch: tuple[int, Sequence[Any]]) -> bool:
        """Submit a batch. Return False if a worker died while the caller handled the last outcome."""
        try:
            pending[pool.submit(process, batch)] = batch
        except BrokenProcessPool:
            pending[Future()] = batch
            return False
        return True

    try:
        while True:
            died = False
            if suspects and not pending:  # one at a time, to identify the batch that kills its worker
                died = not submit(suspects[0])
            while not died and not suspects and len(pending) < 2 * workers and (batch := next_batch()) is not None:
                died = not submit(batch)
            if not pending:
                return
            done = () if died else wait(pending, return_when=FIRST_COMPLETED).done
            for future in done:
                index, rows = pending.pop(future)
                try:
                    outcome = Outcome(index, rows, future.result())
                except BrokenProcessPool:
                    died = True
                    if suspects:
                        suspects.popleft()
                        outcome = Outcome(index, rows, lost=True)
                    else:
                        pending[future] = index, rows
                        break
                else:
                    if suspects:
                        suspects.popleft()
                yield outcome
            if died:
                if not suspects:
                    suspects.extend((index, [row]) for index, rows in pending.values() for row in rows)
                pending.clear()
                pool.shutdown(wait=True, cancel_futures=True)
                pool = start_pool(task, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Tasks:
    """Several tasks combined into one. Each is opened for its first batch."""

    tasks: tuple[BatchTask, ...]

    def open(self, worker: int) -> Callable[[Any], Any]:
        opened: dict[int, Callable[[Sequence[Any]], Any]] = {}

        def work(batch: tuple[int, Sequence[Any]]) -> Any:
            index, rows = batch
            if index not in opened:
                opened[index] = self.tasks[index].open(worker)
            return opened[index](rows)

        return work
