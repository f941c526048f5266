"""Explanations of selections: passing steps match a brute-force search over all steps."""

import numpy as np
import pytest

from cogvideox.filter_policy.explain import explain, passing_steps
from cogvideox.filter_policy.policy import Balance, Bound, Policy
from cogvideox.filter_policy.rows import Rows
from cogvideox.filter_policy.schedule import Schedule
from cogvideox.filter_policy.selector import Selector

UP, DOWN = Schedule((10, 30, 60), (0.0, 1.0, 0.5)), Schedule((0, 50), (3.0, 1.2))
BOUNDS = [
    Bound("x", at_least=UP),
    Bound("x", at_least=UP, at_most=DOWN),
    Bound("x", at_least=UP, from_step=20, to_step=45),
    Bound("x", at_most=Schedule((5, 25), (0.4, 2.0), "constant")),
    Bound("x", at_least=0.5, media="videos"),
    Bound("x", at_least=0.5, keep_missing=True, to_step=7),
    Bound("name", among=("a",), from_step=15),
]
COLUMNS = {
    "x": [-1.0, 0.3, 0.7, 0.999, 1.5, 2.5, None, None],
    "name": ["a", "b", "", "a", "b", "", "a", "b"],
    "is_image": [False, False, True, False, False, False, False, True],
}


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_passing_steps_matches_brute_force(bound):
    rows = Rows(COLUMNS, 8)
    expected = np.array([bound.mask(rows, step) for step in range(80)])
    for row in range(8):
        actual = np.zeros(80, dtype=bool)
        for start, end in passing_steps(bound, rows, row):
            actual[start : 80 if end is None else end + 1] = True
        assert actual.tolist() == expected[:, row].tolist()


def test_near_duplicates_and_clusters_are_explained():
    columns = {"id": ["a", "b", "c"], "duplicate_of": ["", "a", ""], "cluster": ["k", "k", "k"], "x": [1.0, 2.0, 3.0]}
    policy = Policy(balance=Balance(max_fraction=1.0))
    duplicate = explain(Selector(policy, columns, 3), 1)
    assert not duplicate.kept and duplicate.conditions[0].rule == "a is kept" and not duplicate.conditions[0].passes
    assert [condition.passes for condition in explain(Selector(policy, columns, 3), 2).conditions] == [True, True]
    bounded = Policy((Bound("x", at_least=1.5),))
    assert explain(Selector(bounded, columns, 3), 1).kept and not explain(Selector(bounded, columns, 3), 0).kept
