"""The interface of batch tasks (a batch of rows in, a result out), and the names of the backends that run them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

Backend = Literal["local", "ray"]

Row = TypeVar("Row", contravariant=True)
Result = TypeVar("Result", covariant=True)


@runtime_checkable
class BatchTask(Protocol[Row, Result]):
    """A picklable description of a task, opened in each worker process."""

    def open(self, worker: int) -> Callable[[Sequence[Row]], Result]:
        """Load the required resources once per process, and return a function that processes a batch.

        Args:
            worker: 0-based index of this process in the machine's pool, used to select a device.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of a batch of `feed.run_feed`.

    Attributes:
        task: index of the task.
        result: the return value of the task; None if `lost`.
        lost: whether this single-row batch crashed its worker twice, or the cluster failed on it.
    """

    task: int
    batch: Sequence[Any]
    result: Any = None
    lost: bool = False


NextBatch = Callable[[], tuple[int, Sequence[Any]] | None]
"""Function that returns the index of a task and its next batch; None if there is none until a result is handled."""
