"""What is drawn, in which order, and that the order is nobody's but the seed's."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cogvideox.config import from_dict, to_dict
from cogvideox.dataset.mixture import Mixture, MixtureSettings, Source, State, Table
from cogvideox.errors import UserError
from cogvideox.filter_policy import Bound, Policy

SETTINGS = MixtureSettings(sources=(Source("a", 3.0), Source("b")), row_tokens=200, num_rows=4)


def table(num_images: int, num_videos: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    lengths = np.concatenate((rng.integers(5, 20, num_images), rng.integers(20, 150, num_videos)))
    is_image = np.arange(len(lengths)) < num_images
    return Table(lengths, is_image, {"score": np.arange(len(lengths)) / len(lengths)})


def mixture(seed: int = 0, **changes) -> Mixture:
    return Mixture({"a": table(30, 50, 1), "b": table(10, 30, 2)}, replace(SETTINGS, **changes), seed)


def plans(mixture: Mixture, number: int, state: State | None = None):
    state, made = state or mixture.start(), []
    for _ in range(number):
        made.append(mixture.plan(state))
        state = made[-1].after
    return made


def samples(plans):
    return [sample for plan in plans for row in plan.rows for sample in row]


def test_rows_are_full_and_within_the_budget():
    """All rows of every step, and as good as no room is left."""
    made = plans(mixture(), 30)
    assert all(len(plan.rows) == 4 and sum(row) <= 200 for plan in made for row in plan.lengths)
    share = sum(plan.num_tokens for plan in made) / (30 * 4 * 200)
    assert share > 0.97
    assert made[0].num_clips == sum(map(len, made[0].rows))


def test_no_sample_is_lost_and_none_waits_for_long():
    made = plans(mixture(), 30)
    positions = [sample.position for sample in samples(made)]
    left = [sample.position for sample in made[-1].after.waiting]
    assert sorted(positions + left) == list(range(made[-1].after.position))
    for before, plan in zip(made, made[3:]):  # what was left over is gone three steps later
        assert not {s.position for s in before.after.waiting} & {s.position for s in plan.after.waiting}


def test_every_clip_of_a_lane_comes_once_in_each_pass():
    made = plans(mixture(), 60)
    drawn = sorted(samples(made) + list(made[-1].after.waiting), key=lambda sample: sample.position)
    for lane, clips in mixture().lanes.items():
        indices = [sample.index for sample in drawn if sample.lane == lane]
        passes = [indices[i : i + len(clips)] for i in range(0, len(indices) - len(clips), len(clips))]
        assert len(passes) >= 2 or lane == "b images"
        assert all(sorted(one) == clips.tolist() for one in passes)
        assert len(passes) < 2 or passes[0] != passes[1]
    assert made[-1].after.seen == Counter(sample.lane for sample in samples(made))


def test_sources_come_by_weight_and_images_by_share():
    seen = plans(mixture(), 200)[-1].after.seen
    total = sum(seen.values())
    assert sum(number for lane, number in seen.items() if lane[0] == "a") / total == pytest.approx(0.75, abs=0.03)
    assert seen["a images"] / (seen["a images"] + seen["a videos"]) == pytest.approx(30 / 80, abs=0.03)
    seen = plans(mixture(image_share=0.2), 200)[-1].after.seen
    total = sum(seen.values())
    assert (seen["a images"] + seen["b images"]) / total == pytest.approx(0.2, abs=0.03)
    assert seen["a videos"] / (seen["a videos"] + seen["b videos"]) == pytest.approx(0.75, abs=0.03)
    assert "image" not in "".join(sample.lane for sample in samples(plans(mixture(image_share=0.0), 5)))


def test_a_resumed_plan_goes_on_as_if_it_had_never_stopped():
    """Through JSON, as a checkpoint keeps it, and in another process's mixture."""
    made = plans(mixture(), 12)
    state = from_dict(State, json.loads(json.dumps(to_dict(made[4].after))))
    assert plans(mixture(), 7, state) == made[5:]
    assert samples(plans(mixture(1), 12)) != samples(made)


def test_the_policy_chooses_from_its_step_on():
    policy = Policy((Bound("score", best=0.5, from_step=10),))
    made = plans(mixture(policy=policy), 20)
    free = plans(mixture(), 20)
    assert samples(made[:9]) == samples(free[:9])
    best = {
        name: {*np.argsort(of.lengths * 0 + of.columns["score"])[-len(of.lengths) // 2 :].tolist()}
        for name, of in mixture().tables.items()
    }
    assert all(sample.index in best[sample.lane[0]] for sample in samples(made[10:]))
    assert made[9].kept == {"a": 1.0, "b": 1.0} and made[10].kept == {"a": 0.5, "b": 0.5}


def test_ranks_share_the_rows_of_a_step():
    plan = plans(mixture(num_rows=8), 3)[-1]
    cost = [sum(length**2 for length in row) for row in plan.lengths]
    for num_ranks in (1, 2, 4, 8):
        shares = plan.shares(num_ranks)
        assert sorted(row for rows in shares for row in rows) == list(range(8))
        totals = [sum(cost[row] for row in rows) for rows in shares]
        assert max(totals) - min(totals) <= max(cost) - min(cost)


def test_another_source_is_not_the_same_run():
    state = plans(mixture(), 2)[-1].after
    mixture().check(state)
    grown = Mixture({"a": table(30, 51, 1), "b": table(10, 30, 2)}, SETTINGS, 0)
    with pytest.raises(UserError, match="a videos: the run has 50 of them and there are 51 now"):
        grown.check(state)
    one = Mixture({"a": table(30, 50, 1)}, replace(SETTINGS, sources=(Source("a"),)), 0)
    with pytest.raises(UserError, match="b images: the run has 10 of them and there are 0"):
        one.check(state)
    with pytest.raises(UserError, match="b images, b videos: the run began without them"):
        mixture().check(one.start())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": ()}, "have to be one store or several"),
        ({"sources": (Source("a"), Source("a"))}, "each of them once"),
        ({"num_rows": 0}, "num_rows=0 is below"),
        ({"image_share": 1.5}, r"image_share=1.5 is not in \[0, 1\]"),
        ({"row_tokens": 100}, "row_tokens=100 is too small for a clip of 14. tokens in a"),
        ({"policy": Policy((Bound("scores", best=0.5),))}, "did you mean score"),
        ({"policy": Policy((Bound("score", at_least=2.0),))}, "from step 0 on the policy keeps none of the clips"),
    ],
)
def test_refusals(changes, says):
    with pytest.raises(UserError, match=says):
        plans(mixture(**changes), 1)


def test_kinds_that_there_are_not():
    only_videos, settings = {"a": table(0, 9, 1)}, replace(SETTINGS, sources=(Source("a"),))
    assert plans(Mixture(only_videos, replace(settings, image_share=0.0), 0), 1)
    with pytest.raises(UserError, match=r"image_share=0.5, but there is no image"):
        Mixture(only_videos, replace(settings, image_share=0.5), 0)
    with pytest.raises(UserError, match="a has no clips"):
        Mixture({"a": table(0, 0, 1)}, settings, 0)
    with pytest.raises(UserError, match="weight 0"):
        Source("a", 0.0)
    policy = Policy((Bound("score", at_most=0.3, from_step=1),))  # of these, images are first
    with pytest.raises(UserError, match="from step 1 on the policy keeps no video, and image_share asks"):
        plans(Mixture({"a": table(9, 9, 1)}, replace(settings, image_share=0.5, policy=policy), 0), 2)


def test_torch_is_not_imported():
    code = "import sys, cogvideox.dataset.mixture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
