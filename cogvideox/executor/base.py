"""Stages (rows in, results out) and where they run: in local processes or on a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

Backend = Literal["local", "ray"]

Row = TypeVar("Row", contravariant=True)
Result = TypeVar("Result", covariant=True)


@runtime_checkable
class Task(Protocol[Row, Result]):
    """Something small that can be pickled, and is opened in the process that does the work."""

    def open(self, worker: int) -> Callable[[Sequence[Row]], Result]:
        """Loads what the work needs, once per process, and returns the function that processes one batch.

        Args:
            worker: the index of this process in the machine's pool, from 0; use it to choose a device.
        """
        ...


def run(
    task: Task[Row, Result], batches: Iterable[Sequence[Row]], *, workers: int = 0, backend: Backend = "local"
) -> Iterator[Result]:
    """Yields the result of every batch, in input order, as soon as it is available.

    Args:
        workers: processes; 0 runs in this process, or on a cluster with one worker per CPU.
        backend: "local" is this machine, "ray" the cluster that `RAY_ADDRESS` names or, without one, this machine too.

    Raises:
        UserError: a process was killed; Ray is not installed. What a stage raises, with its traceback as a note.
    """
    if backend == "ray":
        from cogvideox.executor import ray

        return ray.run(task, batches, workers)
    from cogvideox.executor import local

    return local.run(task, batches, workers)
