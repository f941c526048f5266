"""A stage: rows in, rows out. What is done with rows, told apart from where it is done.

A stage answers a batch from the batch alone. So the answers do not depend on how many processes there are, on which
machines they run, and on what they did before.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

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
