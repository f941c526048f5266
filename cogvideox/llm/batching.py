"""Batches of items from several threads, for models that process a batch in about the time of one item."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cogvideox.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    result: Result | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class BatchQueue(Generic[Item, Result]):
    """Queue of the items of concurrent calls, which are processed in batches in the threads of the callers.

    If a batch fails, its items are processed one by one, so that only those at fault fail. A `UserError`, which ends
    the run, is raised for all of them.

    While a batch is processed, the items of other threads wait and form the next one. With twice `batch_size` threads,
    batches are full.

    Args:
        process: processes a batch, and returns one result per item.
        batch_size: maximum number of items in a batch.
        workers: maximum number of batches that are processed concurrently.
    """

    def __init__(self, process: Callable[[list[Item]], Sequence[Result]], batch_size: int, workers: int = 1) -> None:
        self._process, self._batch_size = process, batch_size
        self._turn, self._lock = threading.BoundedSemaphore(workers), threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()

    def __call__(self, item: Item) -> Result:
        """Process an item, together with those of other threads. Raises the errors of `process`."""
        entry: _Entry[Item, Result] = _Entry(item)
        with self._lock:
            self._waiting.append(entry)
        with self._turn:
            while not entry.done.is_set() and self._run_batch():
                pass
        entry.done.wait()  # another thread may be processing it
        if entry.error is not None:
            raise entry.error
        return entry.result  # pyrefly: ignore

    def _run_batch(self) -> bool:
        """Process the items that have waited longest; return False if there are none."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        if not batch:
            return False
        try:
            self._process_entries(batch)
        finally:
            for entry in batch:
                entry.done.set()
        return True

    def _process_entries(self, batch: list[_Entry[Item, Result]]) -> None:
        """Set the result or the error of each entry."""
        try:
            results = self._process([entry.item for entry in batch])
            for entry, result in zip(batch, results, strict=True):
                entry.result = result
        except BaseException as error:
            if len(batch) > 1 and isinstance(error, Exception) and not isinstance(error, UserError):
                for entry in batch:
                    self._process_entries([entry])
                return
            for entry in batch:
                entry.error = error
