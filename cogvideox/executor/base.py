"""Tasks (batches of rows in, results out) and the backends that run them: local processes or a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

Backend = Literal["local", "ray"]

Row = TypeVar("Row", contravariant=True)
Result = TypeVar("Result", covariant=True)


@runtime_checkable
class BatchTask(Protocol[Row, Result]):
    """A small picklable task description, opened in each worker process."""

    def open(self, worker: int) -> Callable[[Sequence[Row]], Result]:
        """Load the required resources, once per process, and return the function that processes one batch.

        Args:
            worker: 0-based index of this process in the machine's pool, used to select a device.
        """
        ...


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
