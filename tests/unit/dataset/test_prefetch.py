import multiprocessing
import os
import signal
from contextlib import closing
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cogvideox.dataset.prefetch import ahead, to_device
from cogvideox.errors import UserError

everywhere = pytest.mark.parametrize("workers", [0, 2])


class Pair(NamedTuple):
    """What a loop gets: a named tuple of tensors, one of them laid out in another order than it is indexed in."""

    values: Tensor
    turned: Tensor


def pair(key: int) -> Pair:
    generator = torch.Generator().manual_seed(key)
    return Pair(torch.randn(3, generator=generator), torch.randn(2, 4, generator=generator).T)


def refuse_the_third(key: int) -> int:
    if key == 2:
        raise UserError("the third is refused")
    return key


def ends_itself(key: int) -> int:
    """The id of the process that makes it, which has been told to stop twice."""
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    return os.getpid()


@everywhere
def test_the_same_things_in_the_same_order(workers):
    keys = [5, 3, 8, 1, 9]
    made = list(ahead(pair, keys, workers=workers))
    for key, (values, turned) in zip(keys, made, strict=True):
        assert torch.equal(values, pair(key).values) and torch.equal(turned, pair(key).turned)
        assert turned.stride() == pair(key).turned.stride()  # kernels differ by layout, and so would the last bits


def test_tensors_are_pinned_without_workers_as_well(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor, *_: pinned.append(tensor) or tensor)
    made = list(ahead(pair, [5, 3], pin=True))
    assert [tuple(one) for one in made] == [tuple(pinned[:2]), tuple(pinned[2:])]
    list(ahead(pair, [5], pin=False))
    assert len(pinned) == 4


@everywhere
def test_an_error_is_itself_when_its_turn_comes(workers):
    made = ahead(refuse_the_third, range(5), workers=workers)
    assert next(made) == 0 and next(made) == 1
    with pytest.raises(UserError, match="the third is refused") as error:
        next(made)
    assert workers == 0 or "refuse_the_third" in error.value.__notes__[0]


def test_signals_are_left_to_the_parent_and_closing_ends_the_workers():
    before = len(multiprocessing.active_children())
    with closing(ahead(ends_itself, range(100), workers=1)) as made:
        assert next(made) == next(made) != os.getpid()
        assert len(multiprocessing.active_children()) == before + 1
    assert len(multiprocessing.active_children()) == before


def test_here_things_are_made_when_they_are_asked_for():
    made: list[int] = []
    iterator = ahead(partial(_note, made), range(3))
    assert made == [] and next(iterator) == 0 and made == [0]


def _note(made: list[int], key: int) -> int:
    made.append(key)
    return key


def test_named_tuples_move_as_they_are():
    moved = to_device(pair(1), torch.device("meta"))
    assert type(moved) is Pair and {part.device.type for part in moved} == {"meta"}
