"""Tasks (batches of rows in, results out) and the backends that run them: local processes or a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

Backend = Literal["local", "ray"]

Row = TypeVar("Row", contravariant=True)
Result = TypeVar("Result", covariant=True)


@runtime_checkable
class BatchTask(Protocol[Row, Result]):
    """A small picklable description of the work, opened in the process that does it."""

    def open(self, worker: int) -> Callable[[Sequence[Row]], Result]:
        """Load what the work needs, once per process, and return the function that processes one batch.

        Args:
            worker: index of this process in the machine's pool, from 0, to choose a device.
        """
        ...


def run(
    task: BatchTask[Row, Result], batches: Iterable[Sequence[Row]], *, workers: int = 0, backend: Backend = "local"
) -> Iterator[Result]:
    """Yield the result of every batch, in input order, as soon as it is available.

    Args:
        workers: number of processes; 0 is this process, or one worker per GPU (else CPU) of a Ray cluster.
        backend: "local" is this machine; "ray" is the cluster at `RAY_ADDRESS` or, without one, this machine.

    Raises:
        UserError: a worker process was killed, or Ray is not installed. Errors of the task are re-raised with their
            traceback as a note.
    """
    if backend == "ray":
        from cogvideox.executor import ray

        return ray.run(task, batches, workers)
    from cogvideox.executor import local

    return local.run(task, batches, workers)
