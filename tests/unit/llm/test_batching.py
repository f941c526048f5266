"""Batches formed from concurrent calls."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cogvideox.errors import UserError
from cogvideox.llm.batching import BatchQueue


def test_each_caller_gets_the_result_of_its_item_and_batches_are_limited():
    sizes = []

    def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(0.005)
        return [2 * item for item in items]

    queue = BatchQueue(double, batch_size=4)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(queue, range(40), timeout=30)) == [2 * item for item in range(40)]
    assert sum(sizes) == 40 and max(sizes) <= 4 and len(sizes) < 40


def test_batches_run_concurrently_up_to_the_number_of_workers():
    running, most, lock, both = 0, 0, threading.Lock(), threading.Barrier(2)

    def process(items: list[int]) -> list[int]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(timeout=30)  # two batches at a time
        with lock:
            running -= 1
        return items

    queue = BatchQueue(process, batch_size=1, workers=2)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(queue, range(4), timeout=30)) == [0, 1, 2, 3]
    assert most == 2


def test_an_error_of_a_batch_is_raised_for_each_of_its_items():
    def fail(items: list[int]) -> list[int]:
        raise ValueError("no")

    queue = BatchQueue(fail, batch_size=2)
    for item in range(3):
        with pytest.raises(ValueError, match="no"):
            queue(item)


@pytest.mark.parametrize(("kind", "failed"), [(ValueError, [2]), (UserError, [1, 2, 3])])
def test_only_the_items_at_fault_fail_unless_the_error_ends_the_run(kind, failed):
    started, proceed = threading.Event(), threading.Event()

    def process(items: list[int]) -> list[int]:
        started.set()
        assert proceed.wait(timeout=30)
        if 2 in items:
            raise kind("two")
        return items

    queue, results = BatchQueue(process, batch_size=3), {}

    def call(item: int) -> None:
        try:
            results[item] = queue(item)
        except kind as error:
            results[item] = str(error)

    with ThreadPoolExecutor(4) as pool:
        pool.submit(call, 0)
        assert started.wait(timeout=30)
        for item in (1, 2, 3):
            pool.submit(call, item)
        while len(queue._waiting) < 3:
            time.sleep(0.001)
        proceed.set()
    assert results == {item: "two" if item in failed else item for item in range(4)}
