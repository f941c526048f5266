"""The order in which a rater sees the items of a study.

Training items come first. Then the rater's items follow in a random order, mixed with the gold items, and some items
are repeated with the sides swapped. The order is a function of the protocol and the rater, so that it survives
a restart.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from cogvideox.evaluation.human.study.protocol import Item, Study

MIN_DISTANCE = 10
"""Number of items between an item and its repeat, if there are enough."""


@dataclass(frozen=True)
class Task:
    """An item in a rater's order.

    Attributes:
        swapped: whether the second video is on the left.
        repeat: whether the rater has seen the item before.
    """

    position: int
    item: Item
    swapped: bool
    repeat: bool = False


def tasks_of(study: Study, rater: str, rater_number: int) -> list[Task]:
    """Return a rater's tasks.

    Args:
        rater: id of the rater, which determines the order.
        rater_number: number of the rater, from 0. If raters answer a part of the items, raters with successive numbers
            get successive parts, so that all items get the same number of answers.
    """
    rng = np.random.default_rng(_seed(study, rater))
    normal = study.items_of("normal")
    if 0 < study.items_per_rater < len(normal):
        order = np.random.default_rng(_seed(study, "")).permutation(len(normal))
        start = rater_number * study.items_per_rater
        normal = [normal[order[(start + k) % len(normal)]] for k in range(study.items_per_rater)]
    shuffled = [normal[index] for index in rng.permutation(len(normal))]
    tasks = [Task(0, item, bool(rng.integers(2))) for item in shuffled]
    for item in study.items_of("gold"):
        tasks.insert(int(rng.integers(len(tasks) + 1)), Task(0, item, bool(rng.integers(2))))
    for item in rng.permutation(len(shuffled))[: round(study.repeat_fraction * len(shuffled))]:
        first = next(i for i, task in enumerate(tasks) if task.item is shuffled[item])
        earliest = min(first + MIN_DISTANCE + 1, len(tasks))
        swapped = not tasks[first].swapped
        tasks.insert(int(rng.integers(earliest, len(tasks) + 1)), Task(0, shuffled[item], swapped, repeat=True))
    training = [Task(0, item, bool(rng.integers(2))) for item in study.items_of("training")]
    return [
        replace(task, position=position, swapped=task.swapped and study.mode == "pair")
        for position, task in enumerate([*training, *tasks])
    ]


def _seed(study: Study, rater: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{study.hash} {study.seed} {rater}".encode()).digest()[:8], "big")
