"""The order in which clips are sampled depends only on the seed, and can be resumed."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cogvideox.config import from_dict, to_dict
from cogvideox.dataset.mixture import ClipTable, DataSource, Mixture, MixtureSettings, MixtureState
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.filter_policy.schedule import Schedule

SETTINGS = MixtureSettings(sources=(DataSource("a", 3.0), DataSource("b")), row_tokens=200, num_rows=4)


def table(num_images: int, num_videos: int, seed: int) -> ClipTable:
    rng = np.random.default_rng(seed)
    lengths = np.concatenate((rng.integers(5, 20, num_images), rng.integers(20, 150, num_videos)))
    is_image = np.arange(len(lengths)) < num_images
    return ClipTable(lengths, is_image, {"score": np.arange(len(lengths)) / len(lengths)})


def mixture(seed: int = 0, **changes) -> Mixture:
    return Mixture({"a": table(30, 50, 1), "b": table(10, 30, 2)}, replace(SETTINGS, **changes), seed)


def plans(mixture: Mixture, num_steps: int, state: MixtureState | None = None):
    state, planned = state or mixture.initial_state(), []
    for _ in range(num_steps):
        planned.append(mixture.plan_step(state))
        state = planned[-1].state_after
    return planned


def samples(plans):
    return [sample for plan in plans for row in plan.rows for sample in row]


def test_rows_are_nearly_full_and_within_the_budget():
    planned = plans(mixture(), 30)
    assert all(len(plan.rows) == 4 and sum(row) <= 200 for plan in planned for row in plan.lengths)
    efficiency = sum(plan.num_tokens for plan in planned) / (30 * 4 * 200)
    assert efficiency > 0.97
    assert planned[0].num_clips == sum(map(len, planned[0].rows))


def test_no_sample_is_lost_and_none_waits_longer_than_three_steps():
    planned = plans(mixture(), 30)
    positions = [sample.position for sample in samples(planned)]
    waiting = [sample.position for sample in planned[-1].state_after.waiting]
    assert sorted(positions + waiting) == list(range(planned[-1].state_after.position))
    for before, plan in zip(planned, planned[3:]):
        assert not {s.position for s in before.state_after.waiting} & {s.position for s in plan.state_after.waiting}


def test_every_clip_of_a_lane_is_used_once_per_epoch():
    planned = plans(mixture(), 60)
    sampled = sorted(samples(planned) + list(planned[-1].state_after.waiting), key=lambda sample: sample.position)
    for lane, clips in mixture().lanes.items():
        indices = [sample.index for sample in sampled if sample.lane == lane]
        epochs = [indices[i : i + len(clips)] for i in range(0, len(indices) - len(clips), len(clips))]
        assert len(epochs) >= 2 or lane == "b images"
        assert all(sorted(epoch) == clips.tolist() for epoch in epochs)
        assert len(epochs) < 2 or epochs[0] != epochs[1]
    assert planned[-1].state_after.seen == Counter(sample.lane for sample in samples(planned))


def test_sources_follow_their_weights_and_images_their_fraction():
    seen = plans(mixture(), 200)[-1].state_after.seen
    total = sum(seen.values())
    assert sum(number for lane, number in seen.items() if lane[0] == "a") / total == pytest.approx(0.75, abs=0.03)
    assert seen["a images"] / (seen["a images"] + seen["a videos"]) == pytest.approx(30 / 80, abs=0.03)
    seen = plans(mixture(image_fraction=0.2), 200)[-1].state_after.seen
    total = sum(seen.values())
    assert (seen["a images"] + seen["b images"]) / total == pytest.approx(0.2, abs=0.03)
    assert seen["a videos"] / (seen["a videos"] + seen["b videos"]) == pytest.approx(0.75, abs=0.03)
    assert "image" not in "".join(sample.lane for sample in samples(plans(mixture(image_fraction=0.0), 5)))


def test_resumed_plans_equal_uninterrupted_plans():
    """The state is saved as JSON, as in a checkpoint, and resumed with a new mixture."""
    planned = plans(mixture(), 12)
    state = from_dict(MixtureState, json.loads(json.dumps(to_dict(planned[4].state_after))))
    assert plans(mixture(), 7, state) == planned[5:]
    assert samples(plans(mixture(1), 12)) != samples(planned)


def test_the_policy_applies_from_its_step_on():
    policy = Policy((Bound("score", best=0.5, from_step=10),))
    planned = plans(mixture(policy=policy), 20)
    unfiltered = plans(mixture(), 20)
    assert samples(planned[:9]) == samples(unfiltered[:9])
    best = {
        name: {*np.argsort(clips.columns["score"])[-len(clips.lengths) // 2 :].tolist()}
        for name, clips in mixture().tables.items()
    }
    assert all(sample.index in best[sample.lane[0]] for sample in samples(planned[10:]))
    assert planned[9].kept_fractions == {"a": 1.0, "b": 1.0} and planned[10].kept_fractions == {"a": 0.5, "b": 0.5}


def test_moving_thresholds_filter_every_step():
    policy = Policy((Bound("score", at_least=Schedule((0, 20), (0.0, 0.8))),))
    planned = plans(mixture(policy=policy), 25)
    for step, plan in enumerate(planned):
        threshold = 0.8 * min(step, 20) / 20
        assert all(sample.index / (80 if sample.source == "a" else 40) >= threshold for sample in samples([plan]))
    fractions = [plan.kept_fractions["a"] for plan in planned]
    assert fractions[0] == 1 and fractions[20:] == [0.2] * 5 and fractions == sorted(fractions, reverse=True)
    state = from_dict(MixtureState, json.loads(json.dumps(to_dict(planned[9].state_after))))
    assert plans(mixture(policy=policy), 15, state) == planned[10:]


def test_changed_scores_cannot_be_resumed():
    policy = Policy((Bound("score", best=0.5),))
    state = plans(mixture(policy=policy), 2)[-1].state_after
    mixture(policy=policy).check_state(state)
    clips = table(30, 50, 1)
    changed = replace(clips, columns={"score": clips.columns["score"] + 0.001})
    with pytest.raises(UserError, match="a: the policy or its input columns have changed"):
        Mixture({"a": changed, "b": table(10, 30, 2)}, replace(SETTINGS, policy=policy), 0).check_state(state)


def test_a_policy_that_later_keeps_nothing_is_rejected_at_the_start():
    policy = Policy((Bound("score", at_least=Schedule((0, 1000), (0.0, 2.0))),))
    mixture(policy=policy).check_policy(num_steps=1000)
    with pytest.raises(UserError, match="from step 1000 on, the policy keeps no clips"):
        mixture(policy=policy).check_policy(num_steps=1001)


def test_ranks_share_the_rows_at_similar_cost():
    plan = plans(mixture(num_rows=8), 3)[-1]
    cost = [sum(length**2 for length in row) for row in plan.lengths]
    for num_ranks in (1, 2, 4, 8):
        rows_by_rank = plan.rows_by_rank(num_ranks)
        assert sorted(row for rows in rows_by_rank for row in rows) == list(range(8))
        totals = [sum(cost[row] for row in rows) for rows in rows_by_rank]
        assert max(totals) - min(totals) <= max(cost) - min(cost)


def test_changed_sources_cannot_be_resumed():
    state = plans(mixture(), 2)[-1].state_after
    mixture().check_state(state)
    grown = Mixture({"a": table(30, 51, 1), "b": table(10, 30, 2)}, SETTINGS, 0)
    with pytest.raises(UserError, match="a videos: the run was started with 50 clips, but the source now has 51"):
        grown.check_state(state)
    only_a = Mixture({"a": table(30, 50, 1)}, replace(SETTINGS, sources=(DataSource("a"),)), 0)
    with pytest.raises(UserError, match="b images: the run was started with 10 clips, but the source now has 0"):
        only_a.check_state(state)
    with pytest.raises(UserError, match="b images, b videos: added since the run was started"):
        mixture().check_state(only_a.initial_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "there are no sources"),
        ({"sources": (DataSource("a"), DataSource("a"))}, "a is twice among the sources: remove one"),
        ({"num_rows": 0}, "num_rows=0 must be 1 or more"),
        ({"image_fraction": 1.5}, "image_fraction=1.5 must be between 0 and 1"),
        ({"row_tokens": 100}, "row_tokens=100 is too small for a clip of 14. tokens in a"),
        ({"policy": Policy((Bound("scores", best=0.5),))}, "did you mean score"),
        ({"policy": Policy((Bound("score", at_least=2.0),))}, "from step 0 on, the policy keeps no clips"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        plans(mixture(**changes), 1)


def test_missing_media_types_are_rejected():
    only_videos, settings = {"a": table(0, 9, 1)}, replace(SETTINGS, sources=(DataSource("a"),))
    assert plans(Mixture(only_videos, replace(settings, image_fraction=0.0), 0), 1)
    with pytest.raises(UserError, match=r"image_fraction=0.5 needs images"):
        Mixture(only_videos, replace(settings, image_fraction=0.5), 0)
    with pytest.raises(UserError, match="a has no clips"):
        Mixture({"a": table(0, 0, 1)}, settings, 0)
    with pytest.raises(UserError, match="weight 0"):
        DataSource("a", 0.0)
    policy = Policy((Bound("score", at_most=0.3, from_step=1),))  # the clips with the lowest scores are images
    with pytest.raises(UserError, match="from step 1 on, the policy keeps no videos"):
        plans(Mixture({"a": table(9, 9, 1)}, replace(settings, image_fraction=0.5, policy=policy), 0), 2)


def test_torch_is_not_imported():
    code = "import sys, cogvideox.dataset.mixture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_buckets_have_full_rows_of_one_length():
    """Clips of three lengths, of which rows hold 40, 10 and 2."""
    lengths = np.array([5, 20, 90] * 40)
    tables = {"a": ClipTable(lengths, lengths == 5, {})}
    bucketed = Mixture(tables, replace(SETTINGS, sources=(DataSource("a"),), packing="buckets"), seed=0)
    planned = plans(bucketed, 30)
    assert {(len(row), *set(row)) for plan in planned for row in plan.lengths} == {(40, 5), (10, 20), (2, 90)}
    assert all(len(plan.rows) == 4 for plan in planned)
    used = samples(planned)
    waiting = planned[-1].state_after.waiting
    positions = [sample.position for sample in (*used, *waiting)]
    assert sorted(positions) == list(range(planned[-1].state_after.position))
    counts = Counter(int(lengths[sample.index]) for sample in (*used, *waiting))
    assert max(counts.values()) < 1.1 * min(counts.values())  # all lengths are equally frequent
    restored = from_dict(MixtureState, json.loads(json.dumps(to_dict(planned[9].state_after))))
    assert plans(bucketed, 20, restored) == planned[10:]


def test_ranks_of_timesteps_must_divide_the_rows():
    with pytest.raises(UserError, match="set both or neither"):
        replace(SETTINGS, timestep_ranks=2)
    with pytest.raises(UserError, match=r"^timestep_ranks=3 must divide run\.batch_size=4$"):
        replace(SETTINGS, timestep_ranks=3, timestep_sampling="explicit_uniform_ranks")
