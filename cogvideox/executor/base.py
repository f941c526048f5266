"""The interface of batch tasks (a batch of rows in, a result out), and the names of the backends that run them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

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


@dataclass(frozen=True)
class Outcome:
    """What became of a batch that `feed.run_feed` processed.

    Attributes:
        task: index of the task.
        result: what the task returned; None if `lost`.
        lost: the batch, of one row, ended the worker process twice, or the cluster could not process it.
    """

    task: int
    batch: Sequence[Any]
    result: Any = None
    lost: bool = False


NextBatch = Callable[[], tuple[int, Sequence[Any]] | None]
"""Returns the index of a task and the next batch for it; None if there is none until another result is handled."""
