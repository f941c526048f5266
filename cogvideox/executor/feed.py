"""Process a feed of batches that grows with the results: a file yields clips, which are processed before the next file.

Results are yielded in the order in which they finish. A batch whose worker process dies does not end the run.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from cogvideox.executor.base import Backend, BatchTask, NextBatch, Outcome
from cogvideox.executor.worker_pool import Finished, WorkerPool


def run_feed(
    tasks: Sequence[BatchTask], next_batch: NextBatch, *, workers: int = 0, backend: Backend = "local"
) -> Iterator[Outcome]:
    """Yield the outcome of every batch. Handle each outcome, which may add batches, before requesting the next.

    Each worker opens a task at most once, for its first batch. At most two batches per worker are queued, so that
    batches added by results are processed soon if `next_batch` returns them first (depth first).

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
    waiting: deque[tuple[int, Sequence[Any]]] = deque()  # batches that a dead worker had not started
    suspects: deque[tuple[int, Sequence[Any]]] = deque()  # single rows during which a worker may have died
    with WorkerPool(task, workers) as pool:
        while True:
            repeated = None
            if suspects and not pool.num_pending:  # repeated alone, when other workers use no memory
                repeated = suspects.popleft()
                pool.submit(repeated)
            while not suspects and repeated is None and pool.num_pending < 2 * workers:
                if (batch := waiting.popleft() if waiting else next_batch()) is None:
                    break
                pool.submit(batch)
            if not pool.num_pending:
                return
            for event in pool.wait():
                if isinstance(event, Finished):
                    if event.error is not None:
                        raise event.error
                    index, rows = event.batch
                    yield Outcome(index, rows, event.result)
                elif event.batches and repeated is not None:
                    yield Outcome(*repeated, lost=True)
                elif event.batches:
                    index, rows = event.batches[0]
                    suspects.extend((index, [row]) for row in rows)
                    waiting.extend(event.batches[1:])


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
