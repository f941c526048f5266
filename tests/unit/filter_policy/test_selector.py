"""Selections with scheduled thresholds, quantiles, labels, near-duplicates, clusters and a target fraction."""

import math
from itertools import pairwise

import numpy as np
import pytest

from cogvideox import config
from cogvideox.config import from_dict, to_dict
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Balance, Bound, Policy, Target
from cogvideox.filter_policy.resolve import resolve
from cogvideox.filter_policy.rows import Rows
from cogvideox.filter_policy.schedule import Schedule, grid
from cogvideox.filter_policy.selector import Selector


def kept(policy: Policy, columns: dict, step: int = 0) -> list[int]:
    size = len(next(iter(columns.values())))
    return np.flatnonzero(Selector(policy, columns, size).mask(step)).tolist()


def random_columns(num_rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"flow": rng.gamma(2, 1, num_rows), "aesthetic": rng.normal(5, 1, num_rows), "text": rng.random(num_rows)}


def test_thresholds_can_be_scheduled():
    linear = Schedule((10, 20), (1.0, 3.0))
    assert [linear(step) for step in (0, 10, 15, 20, 99)] == [1, 1, 2, 3, 3]
    constant = Schedule((10, 20), (1.0, 3.0), "constant")
    assert [constant(step) for step in (0, 10, 19, 20)] == [1, 1, 1, 3]
    policy = Policy((Bound("flow", at_least=linear, at_most=Schedule((0, 20), (9.0, 4.0))),))
    columns = {"flow": [0.5, 1.5, 2.0, 3.5, 6.0]}
    assert kept(policy, columns, 0) == [1, 2, 3, 4]
    assert kept(policy, columns, 15) == [2, 3]  # from 2 to 5.25
    assert kept(policy, columns, 30) == [3]
    assert policy.knots == (0, 10, 20)
    assert policy == from_dict(Policy, to_dict(policy))


def test_the_mask_is_the_same_array_until_it_changes():
    selector = Selector(Policy((Bound("x", at_least=Schedule((0, 100), (0.0, 1.0))),)), {"x": [0.5, 2.0]}, 2)
    assert selector.mask(3) is selector.mask(4)
    assert selector.mask(49).tolist() == [True, True] and selector.mask(51).tolist() == [False, True]


def test_images_without_a_value_pass_and_bounds_can_be_limited_to_a_medium():
    columns = {"flow": [None, None, 0.1, 0.3], "size": [1, 3, 1, 3], "num_frames": [1, 9, 9, 9]}
    assert kept(Policy((Bound("flow", at_least=0.2),)), columns) == [0, 3]
    assert kept(Policy((Bound("size", at_least=2.0, media="videos"),)), columns) == [0, 1, 3]
    assert kept(Policy((Bound("size", at_least=2.0, media="images"),)), columns) == [1, 2, 3]
    columns["is_image"] = [False, True, False, False]  # takes precedence: num_frames may not be that of the file
    assert kept(Policy((Bound("flow", at_least=0.2),)), columns) == [1, 3]


def test_labels_have_thresholds():
    columns = {"labels.editing": [0.2, 0.5, 0.9], "labels.lecture": [0.6, 0.1, 0.1]}
    assert kept(Policy(labels={"editing": 0.5}), columns) == [0, 1]
    assert kept(Policy(labels={"editing": 0.5, "lecture": Schedule((0, 4), (1.0, 0.0))}), columns, 2) == [1]
    with pytest.raises(UserError, match=r"labels.editing=1.5 must be a probability"):
        Policy(labels={"editing": 1.5})


def test_quantiles_keep_the_requested_fraction():
    columns = random_columns(1000)
    assert len(kept(Policy((Bound("flow", best=0.2),)), columns)) == 200
    assert kept(Policy((Bound("flow", at_least=0.8, scale="quantile"),)), columns) == kept(
        Policy((Bound("flow", best=0.2),)), columns
    )
    band = Policy((Bound("flow", at_least=0.1, at_most=0.95, scale="quantile"),))
    low, high = np.sort(columns["flow"])[[100, 949]]
    assert kept(band, columns) == np.flatnonzero((columns["flow"] >= low) & (columns["flow"] <= high)).tolist()
    scheduled = Policy((Bound("flow", best=Schedule((0, 10, 1000), (1.0, 0.5, 0.1))),))
    selector = Selector(scheduled, columns, 1000)
    for step, fraction in ((0, 1.0), (5, 0.75), (10, 0.5), (500, 0.302), (1000, 0.1), (5000, 0.1)):
        assert selector.mask(step).mean() == pytest.approx(fraction, abs=0.01 if step == 500 else 1e-9)


def test_resolved_policy_selects_the_same_rows_from_any_subset(tmp_path):
    """The rows may be shuffled or a subset, because a resolved policy has absolute thresholds, also after saving."""
    columns = random_columns(500)
    scheduled = Bound("aesthetic", at_least=Schedule((0, 100), (0.1, 0.5)), scale="quantile")
    adaptive = Policy(target=Target(Schedule((0, 100), (0.8, 0.2)), ("flow", "aesthetic"), ("text",)))
    for policy in (Policy((Bound("flow", best=0.3), scheduled)), adaptive):
        resolved = resolve(policy, Rows(columns, 500))
        assert resolved.is_resolved and resolved.resolved.num_rows == 500
        assert from_dict(Policy, resolved.resolved.original) == policy
        for name in ("policy.yaml", "policy.json"):
            config.save(resolved, tmp_path / name)
            stored = config.load(Policy, tmp_path / name)
            assert stored == resolved
            order = np.random.default_rng(1).permutation(500)[:200]
            for step in (0, 37, 100):
                here = Selector(policy, columns, 500).mask(step)
                there = Selector(stored, {name: column[order] for name, column in columns.items()}, 200).mask(step)
                assert there.tolist() == here[order].tolist()


def test_the_best_clip_of_near_duplicates_that_passes_is_kept():
    columns = {
        "id": ["a", "b", "c", "d", "a"],  # the last row is another window of the first clip
        "duplicate_of": [None, "a", "a", None, None],
        "score": [1.0, 2.0, 3.0, 1.0, 1.0],
    }
    assert kept(Policy(), columns) == [0, 3, 4]
    assert kept(Policy(drop_duplicates=False), columns) == [0, 1, 2, 3, 4]
    assert kept(Policy((Bound("score", at_least=1.5),)), columns) == [1]
    assert kept(Policy((Bound("score", at_least=2.5),)), columns) == [2]


def test_no_cluster_exceeds_its_fraction():
    cluster = ["a"] * 60 + ["b"] * 10 + ["c"] * 10 + ["d"] * 5 + [""] * 15
    columns = {"id": [f"clip{i}" for i in range(100)], "cluster": cluster, "score": np.arange(100.0)}
    rows = kept(Policy(balance=Balance(max_fraction=0.3)), columns)
    counts = {name: sum(cluster[row] == name for row in rows) for name in "abcd"}
    assert counts == {"a": 17, "b": 10, "c": 10, "d": 5} and len(rows) == 57  # 17 of 57 are 0.298, 18 of 58 are 0.31
    best = kept(Policy(balance=Balance(max_fraction=0.3, prefer="score")), columns)
    assert best[:17] == list(range(43, 60))
    # The subset does not depend on the order of the rows.
    order = np.random.default_rng(0).permutation(100)
    shuffled = {name: np.array(values)[order] for name, values in columns.items()}
    again = kept(Policy(balance=Balance(max_fraction=0.3)), shuffled)
    assert sorted(order[again].tolist()) == rows
    even = kept(Policy(balance=Balance(max_fraction=0.01)), {"id": columns["id"][:85], "cluster": cluster[:85]})
    assert len(even) == 20  # four clusters cannot be below a quarter


def test_a_target_holds_the_kept_fraction():
    columns = random_columns(2000) | {"num_frames": np.where(np.arange(2000) % 10 == 0, 1, 9)}
    columns["flow"][columns["num_frames"] == 1] = math.nan
    fixed = Bound("text", at_most=Schedule((0, 50), (1.0, 0.5)))
    policy = Policy((fixed,), target=Target(Schedule((0, 50), (0.5, 0.2)), high=("flow", "aesthetic")))
    selector = Selector(policy, columns, 2000)
    for step in (0, 25, 50, 70):
        fraction = 0.5 - 0.3 * min(step, 50) / 50
        assert selector.mask(step).mean() == pytest.approx(fraction, abs=0.002)
    tight = Policy((Bound("text", at_most=0.1),), target=Target(0.5, high=("flow",)))
    assert kept(tight, columns) == kept(Policy((Bound("text", at_most=0.1), Bound("flow", at_least=0.0))), columns)
    low = Policy(target=Target(0.3, low=("text",)))
    assert (
        kept(low, columns) == np.argsort(columns["text"])[:600][np.argsort(np.argsort(columns["text"])[:600])].tolist()
    )


def test_a_target_counts_near_duplicates_once():
    columns = random_columns(100) | {"id": [f"c{i}" for i in range(100)], "duplicate_of": [""] * 100}
    columns["duplicate_of"][50:] = [f"c{i}" for i in range(50)]
    mask = Selector(Policy(target=Target(0.3, high=("flow",))), columns, 100).mask(0)
    assert mask.sum() == 30


def test_the_digest_changes_with_values_and_thresholds():
    columns, policy = random_columns(50), Policy((Bound("flow", best=0.5),))
    digest = Selector(policy, columns, 50).digest()
    assert Selector(policy, random_columns(50), 50).digest() == digest
    assert Selector(policy, columns | {"flow": columns["flow"] + 1e-9}, 50).digest() != digest
    assert Selector(policy, columns | {"text": columns["text"] + 1}, 50).digest() == digest
    assert Selector(Policy((Bound("flow", best=0.4),)), columns, 50).digest() != digest


def test_a_grid_has_the_knots_and_at_most_32_steps_between_them():
    assert grid(()) == [0] and grid((3,)) == [0, 1, 2, 3]
    steps = grid((1000, 64_000))
    assert {0, 1000, 64_000} <= set(steps) and len(steps) <= 66


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"version": 2}, r"the policy has version 2; this cogvideox supports version 1"),
        (
            {"bounds": [{"column": "x", "at_least": {"steps": [0, 1], "values": [1.0]}}]},
            "a value for each step, got 2 steps",
        ),
        ({"bounds": [{"column": "x", "at_least": {"steps": [5, 1], "values": [1.0, 2.0]}}]}, "must be ascending"),
        ({"bounds": [{"column": "x", "at_least": {"step": [5], "values": [1.0]}}]}, "did you mean .*steps"),
        ({"bounds": [{"column": "x", "at_least": 1.5, "scale": "quantile"}]}, r"quantiles .* must be in \[0, 1\]"),
        (
            {"bounds": [{"column": "x", "at_most": 2.0, "at_least": {"steps": [0, 9], "values": [1.0, 3.0]}}]},
            r"at_least=3.0 above at_most=2.0 at step 9",
        ),
        ({"target": {"fraction": 0.5}}, "target needs columns"),
        ({"target": {"fraction": 0.5, "high": ["x"]}, "balance": {}}, "both balance and target"),
        ({"balance": {"max_fraction": 0.0}}, "max_fraction=0.0 must be in"),
        ({"bounds": [{"column": "x", "best": 0.5, "at_least": 1.0}]}, "both best and at_least"),
    ],
)
def test_invalid_policies_are_rejected(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(Policy, data)


def test_the_hash_covers_near_duplicates():
    columns = {"x": [1.0, 2.0, 3.0], "id": ["a", "b", "c"], "duplicate_of": [None, "a", None]}
    changed = columns | {"duplicate_of": [None, None, None]}
    policy = Policy((Bound("x", at_least=0.0),))
    assert Selector(policy, columns, 3).digest() != Selector(policy, changed, 3).digest()


def test_rows_between_sampled_steps_are_in_the_envelope():
    window = Bound("x", at_least=Schedule((0, 1000), (0.0, 999.0)), at_most=Schedule((0, 1000), (1.0, 1000.0)))
    selector = Selector(Policy((window,)), {"x": np.arange(1000) + 0.5}, 1000)
    steps = selector.sample_steps()
    passing = np.logical_or.reduce([selector.mask(step) for step in range(1001)])
    envelope = np.logical_or.reduce([selector.mask_between(*pair) for pair in pairwise(steps)])
    assert passing.all() and envelope.all()
    assert selector.mask_between(0, steps[1]).sum() < 40


def test_a_target_column_has_one_direction():
    with pytest.raises(UserError, match="both high and low"):
        Target(0.5, high=("x",), low=("x",))
