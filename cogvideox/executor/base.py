"""Where a stage's work is done: in the processes of this machine, or on a cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

Place = Literal["local", "ray"]


def run(
    stage: Stage[Row, Answer], batches: Iterable[Sequence[Row]], *, workers: int = 0, place: Place = "local"
) -> Iterator[Answer]:
    """The answer to every batch, in their order, as they come.

    Args:
        workers: processes; 0 is this one, and on a cluster as many as it has CPUs.
        place: "local" is this machine, "ray" the cluster that `RAY_ADDRESS` names or, without one, this machine too.

    Raises:
        UserError: a process was killed; Ray is not installed. What a stage raises, with its traceback as a note.
    """
    if place == "ray":
        from cogvideox.executor import ray

        return ray.run(stage, batches, workers)
    from cogvideox.executor import local

    return local.run(stage, batches, workers)


Row = TypeVar("Row", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


@runtime_checkable
class Stage(Protocol[Row, Answer]):
    """Something that can be pickled, small, and opened where the work is done."""

    def open(self, worker: int) -> Callable[[Sequence[Row]], Answer]:
        """Loads what the work needs, once in a process, and gives the function that does a batch of it.

        Args:
            worker: the number of this process among those of the machine's pool, from 0; to choose a device by.
        """
        ...
