import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideox.dataset.packing import (
    balance_rows,
    bucketed_batches,
    first_fit_decreasing,
    packing_efficiency,
    padded_batches,
)
from cogvideox.errors import UserError

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def tokens(row, lengths):
    return sum(lengths[i] for i in row)


def test_first_fit_decreasing_examples():
    assert first_fit_decreasing([2, 5, 4, 7, 1, 3, 8], 10) == [(6, 0), (3, 5), (1, 2, 4)]
    assert first_fit_decreasing([2, 5, 4, 7, 1, 3, 8], 10, num_rows=2) == [(6, 0), (3, 5)]
    assert first_fit_decreasing([2, 5, 4, 7, 1, 3, 8], 10, num_rows=2, first=3) == [(0, 1, 5), (2, 4)]
    assert first_fit_decreasing([], 10) == []


@given(lengths)
def test_every_clip_is_packed_once_within_the_budget(lengths):
    rows = first_fit_decreasing(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(tokens(row, lengths) <= 50 for row in rows)
    # The worst-case bound of first-fit decreasing, relative to a lower bound on the number of rows.
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 50) + 1 or len(rows) == sum(length > 25 for length in lengths)


@given(lengths, st.integers(1, 5))
def test_all_rows_are_used_if_there_are_enough_clips(lengths, num_rows):
    rows = first_fit_decreasing(lengths, 50, num_rows=num_rows)
    assert len(rows) <= num_rows
    if sum(lengths) > 50 * num_rows:
        assert len(rows) == num_rows


@given(lengths)
def test_clips_at_the_front_are_packed_first(lengths):
    """Clip 0 is always packed, and so are the others if they all fit."""
    assert first_fit_decreasing(lengths, 50, num_rows=1, first=1)[0][0] == 0
    rows = first_fit_decreasing(lengths, 50, num_rows=2, first=len(lengths))
    if sum(lengths) <= 50:
        assert sorted(rows[0]) == list(range(len(lengths))) and rows[0][0] == 0


def test_padded_and_bucketed_batches_examples():
    sizes = [3, 9, 4, 2, 10, 5, 1]
    assert padded_batches(sizes, 3) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert bucketed_batches(sizes, [4, 10], budget=12) == [(1,), (0, 2, 3), (4,), (5,), (6,)]
    assert packing_efficiency(padded_batches(sizes, 3), sizes, [27, 30, 1]) == 34 / 58


@given(lengths)
def test_every_clip_is_in_one_bucket(lengths):
    edges = [10, 20, 50]
    batches = bucketed_batches(lengths, edges, budget=100)
    assert sorted(i for row in batches for i in row) == list(range(len(lengths)))
    for row in batches:
        edge = next(edge for edge in edges if edge >= max(lengths[i] for i in row))
        assert len(row) * edge <= 100
        assert len({next(edge for edge in edges if edge >= lengths[i]) for i in row}) == 1


@given(st.lists(st.integers(1, 100), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6]))
def test_ranks_get_equally_many_rows_at_similar_cost(costs, num_ranks):
    ranks = balance_rows(costs, num_ranks)
    assert sorted(row for rows in ranks for row in rows) == list(range(12))
    assert {len(rows) for rows in ranks} == {12 // num_ranks}
    totals = [sum(costs[row] for row in rows) for rows in ranks]
    assert max(totals) - min(totals) <= max(costs) - min(costs)
    # Every row of a round is at least as expensive as any row of the next round.
    rounds = list(zip(*([costs[row] for row in rows] for rows in ranks)))
    assert all(min(one_round) >= max(next_round) for one_round, next_round in itertools.pairwise(rounds))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: first_fit_decreasing([5, 11], 10), "a clip of 11 tokens does not fit in rows of 10"),
        (
            lambda: balance_rows([1] * 5, 2),
            r"^run\.batch_size=5: the rows of a step cannot be divided evenly among 2 processes; "
            "the nearest valid number is 4$",
        ),
        (lambda: balance_rows([1], 4), "the nearest valid number is 4"),
        (lambda: bucketed_batches([5, 11], [10], 20), "must be at least 11"),
        (lambda: bucketed_batches([5, 11], [12], 11), "must be at least 11"),
    ],
)
def test_invalid_arguments_are_rejected(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_torch_is_not_imported():
    code = "import sys, cogvideox.dataset.packing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
