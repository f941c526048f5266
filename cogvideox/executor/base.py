"""The interface of batch tasks (a batch of rows in, a result out), and the names of the backends that run them."""

from collections.abc import Callable, Sequence
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
