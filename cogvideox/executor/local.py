"""The local backend: worker processes on this machine."""

from collections.abc import Iterable, Iterator, Sequence

from cogvideox.errors import UserError
from cogvideox.executor.base import BatchTask, Result, Row
from cogvideox.executor.worker_pool import KILLED, Died, Finished, WorkerPool


def run(task: BatchTask[Row, Result], batches: Iterable[Sequence[Row]], workers: int) -> Iterator[Result]:
    """Run a batch task in local processes: see `executor.run.run`."""
    if workers == 0:
        yield from map(task.open(0), batches)
        return
    batches = iter(batches)
    finished: dict[int, Finished] = {}
    next_index = 0
    with WorkerPool(task, workers) as pool:
        while True:
            # Two batches per worker: the current one and the next one.
            while pool.num_pending + len(finished) < 2 * workers and (batch := next(batches, None)) is not None:
                pool.submit(batch)
            if not pool.num_pending and not finished:
                return
            while next_index not in finished:
                for event in pool.wait():
                    if isinstance(event, Died):
                        raise UserError(KILLED)
                    finished[event.index] = event
            event = finished.pop(next_index)
            next_index += 1
            if event.error is not None:
                raise event.error
            yield event.result
