import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideox.dataset.packing import balance, bucketed, first_fit_decreasing, padded, useful_share
from cogvideox.errors import UserError

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def tokens(row, of):
    return sum(of[i] for i in row)


def test_first_fit_decreasing_by_hand():
    assert first_fit_decreasing([2, 5, 4, 7, 1, 3, 8], 10) == [(6, 0), (3, 5), (1, 2, 4)]
    assert first_fit_decreasing([2, 5, 4, 7, 1, 3, 8], 10, num_rows=2) == [(6, 0), (3, 5)]
    assert first_fit_decreasing([2, 5, 4, 7, 1, 3, 8], 10, num_rows=2, first=3) == [(0, 1, 5), (2, 4)]
    assert first_fit_decreasing([], 10) == []


@given(lengths)
def test_every_clip_has_one_place_and_no_row_is_too_long(lengths):
    rows = first_fit_decreasing(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(tokens(row, lengths) <= 50 for row in rows)
    # The worst that first-fit-decreasing does, against rows that could not be fewer.
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 50) + 1 or len(rows) == sum(length > 25 for length in lengths)


@given(lengths, st.integers(1, 5))
def test_rows_are_all_used_where_there_is_enough(lengths, num_rows):
    rows = first_fit_decreasing(lengths, 50, num_rows=num_rows)
    assert len(rows) <= num_rows
    if sum(lengths) > 50 * num_rows:
        assert len(rows) == num_rows


@given(lengths)
def test_the_first_go_first(lengths):
    """The first of all has a place, and the others too as long as they all fit."""
    assert first_fit_decreasing(lengths, 50, num_rows=1, first=1)[0][0] == 0
    rows = first_fit_decreasing(lengths, 50, num_rows=2, first=len(lengths))
    if sum(lengths) <= 50:
        assert sorted(rows[0]) == list(range(len(lengths))) and rows[0][0] == 0


def test_padded_and_bucketed_by_hand():
    sizes = [3, 9, 4, 2, 10, 5, 1]
    assert padded(sizes, 3) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert bucketed(sizes, [4, 10], budget=12) == [(1,), (0, 2, 3), (4,), (5,), (6,)]
    assert useful_share(padded(sizes, 3), sizes, [27, 30, 1]) == 34 / 58


@given(lengths)
def test_every_clip_is_in_one_bucket(lengths):
    edges = [10, 20, 50]
    batches = bucketed(lengths, edges, budget=100)
    assert sorted(i for row in batches for i in row) == list(range(len(lengths)))
    for row in batches:
        edge = next(edge for edge in edges if edge >= max(lengths[i] for i in row))
        assert len(row) * edge <= 100
        assert len({next(edge for edge in edges if edge >= lengths[i]) for i in row}) == 1


@given(st.lists(st.integers(1, 100), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6]))
def test_ranks_get_as_many_rows_and_about_the_same_cost(costs, num_ranks):
    ranks = balance(costs, num_ranks)
    assert sorted(row for rows in ranks for row in rows) == list(range(12))
    assert {len(rows) for rows in ranks} == {12 // num_ranks}
    totals = [sum(costs[row] for row in rows) for rows in ranks]
    assert max(totals) - min(totals) <= max(costs) - min(costs)
    # In a round every rank has a row that is at least as expensive as any of the next round.
    rounds = list(zip(*([costs[row] for row in rows] for rows in ranks)))
    assert all(min(now) >= max(after) for now, after in itertools.pairwise(rounds))


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: first_fit_decreasing([5, 11], 10), "a clip of 11 tokens does not fit into rows of 10"),
        (lambda: balance([1] * 5, 2), "5 rows of a step do not divide among 2 processes; the nearest is 4"),
        (lambda: balance([1], 4), "the nearest is 4"),
        (lambda: bucketed([5, 11], [10], 20), "clips of up to 11 tokens"),
        (lambda: bucketed([5, 11], [12], 11), "clips of up to 11 tokens"),
    ],
)
def test_refusals(ask, says):
    with pytest.raises(UserError, match=says):
        ask()


def test_torch_is_not_imported():
    code = "import sys, cogvideox.dataset.packing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
