"""Batches whose results add batches, and workers that die."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from cogvideox.errors import UserError
from cogvideox.executor.feed import run_feed, workers_for_memory


@dataclass(frozen=True)
class Count:
    """Maps each number to the numbers below it."""

    stateless: ClassVar[bool] = True

    def open(self, worker: int) -> Callable[[Sequence[int]], list[list[int]]]:
        return lambda batch: [list(range(number)) for number in batch]


@dataclass(frozen=True)
class Square:
    kill: int = -1
    bad: int = -1

    def open(self, worker: int) -> Callable[[Sequence[int]], list[int]]:
        def work(batch: Sequence[int]) -> list[int]:
            if self.kill in batch:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.bad in batch:
                raise UserError(f"{self.bad} is bad")
            return [number**2 for number in batch]

        return work


def squares(square: Square, **options) -> tuple[list[int], list[list[int]], list[int]]:
    """Return the squares, the lost batches, and the tasks in the order of their results."""
    files, clips = deque([3, 5, 2, 4]), deque()

    def next_batch() -> tuple[int, list[int]] | None:
        if clips:
            return 1, [clips.popleft()]
        return (0, [files.popleft()]) if files else None

    results, lost, order = [], [], []
    for outcome in run_feed([Count(), square], next_batch, **options):
        order.append(outcome.task)
        if outcome.lost:
            lost.append(list(outcome.batch))
        elif outcome.task == 0:
            clips.extend(number for numbers in outcome.result for number in numbers)
        else:
            results += outcome.result
    return sorted(results), lost, order


EXPECTED = [0, 0, 0, 0, 1, 1, 1, 1, 4, 4, 4, 9, 9, 16]


def test_clips_of_a_file_are_processed_before_the_next_file():
    results, lost, order = squares(Square())
    assert (results, lost) == (EXPECTED, [])
    assert order == [0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1]


def test_workers_give_the_same_results():
    assert squares(Square(), workers=2)[:2] == (EXPECTED, [])


def test_a_batch_that_kills_its_worker_is_lost_alone():
    results, lost, _ = squares(Square(kill=3), workers=2)
    assert lost == [[3], [3]]
    assert results == [number for number in EXPECTED if number != 9]


def test_a_worker_that_dies_while_an_outcome_is_handled_loses_its_batch_only():
    numbers, results, lost = deque(range(6)), [], []

    def next_batch() -> tuple[int, list[int]] | None:
        return (0, [numbers.popleft()]) if numbers else None

    for outcome in run_feed([Square(kill=1)], next_batch, workers=1):
        lost += outcome.batch if outcome.lost else []
        results += outcome.result or []
        time.sleep(0.5 if outcome.batch == [0] else 0.0)  # meanwhile the next batch kills the worker
    assert (sorted(results), lost) == ([0, 4, 9, 16, 25], [1])


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_task_are_raised(workers):
    with pytest.raises(UserError, match="3 is bad"):
        squares(Square(bad=3), workers=workers)


def test_workers_are_limited_by_free_memory(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 9 * 2**30}))
    assert [workers_for_memory(16, gib * 2**30) for gib in (0, 1, 3, 20)] == [16, 8, 2, 1]


@pytest.mark.slow
def test_ray_data_gives_the_same_results():
    pytest.importorskip("ray.data")
    assert squares(Square(), workers=2, backend="ray")[:2] == (EXPECTED, [])
    with pytest.raises(UserError, match="3 is bad"):
        squares(Square(bad=3), workers=2, backend="ray")
