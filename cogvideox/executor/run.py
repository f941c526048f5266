"""Run a batch task in local processes or on a Ray cluster."""

from collections.abc import Iterable, Iterator, Sequence

from cogvideox.executor.base import Backend, BatchTask, Result, Row


def run(
    task: BatchTask[Row, Result], batches: Iterable[Sequence[Row]], *, workers: int = 0, backend: Backend = "local"
) -> Iterator[Result]:
    """Yield the result of every batch, in input order, as soon as it is available.

    Args:
        workers: number of processes; 0 means this process or, with Ray, one worker per GPU (or CPU if there is none).
        backend: "local" runs on this machine; "ray" on the cluster at `RAY_ADDRESS`, or this machine if it is not set.

    Raises:
        UserError: a worker process was killed, or Ray is not installed. Errors raised by the task are re-raised with
            their traceback as a note.
    """
    if backend == "ray":
        from cogvideox.executor import ray

        return ray.run(task, batches, workers)
    from cogvideox.executor import local

    return local.run(task, batches, workers)
