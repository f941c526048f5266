"""Feeds: orders, overlap, gold items, and what comes first."""

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.serving.annotate.feeds import FeedSettings, Pool, next_clips

IDS = [f"clip-{index}" for index in range(200)]
PLAIN = FeedSettings(overlap=0.0, gold=0.0)


def annotate_all(pool: Pool, annotators: list[str], settings: FeedSettings) -> dict[str, list[str]]:
    """Let people annotate in turn until nothing is left, and return the clips of each in order."""
    done: dict[str, list[str]] = {name: [] for name in annotators}
    while True:
        served = 0
        for name in annotators:
            for clip in next_clips(pool, name, set(), 1, settings, "random"):
                pool.labels.setdefault(clip, {})[name] = ()
                done[name].append(clip)
                served += 1
        if not served:
            return done


def test_people_share_the_clips_in_orders_of_their_own():
    done = annotate_all(Pool(IDS), ["ann", "bo"], PLAIN)
    assert len(done["ann"]) == len(done["bo"]) == 100
    assert set(done["ann"]) | set(done["bo"]) == set(IDS)
    first = {name: next_clips(Pool(IDS), name, set(), 20, PLAIN, "random") for name in ("ann", "bo")}
    assert first["ann"] != first["bo"] and len(set(first["ann"])) == 20
    assert first["ann"] == next_clips(Pool(IDS), "ann", set(), 20, PLAIN, "random")
    assert not set(first["ann"]) & set(next_clips(Pool(IDS), "bo", set(first["ann"]), 50, PLAIN, "random"))


def test_a_fraction_of_the_clips_is_annotated_twice():
    pool = Pool(IDS)
    annotate_all(pool, ["ann", "bo", "cleo"], FeedSettings(overlap=0.3, gold=0.0))
    counts = [len(answers) for answers in pool.labels.values()]
    assert set(counts) == {1, 2} and 0.2 < counts.count(2) / len(counts) < 0.4


def test_gold_items_are_mixed_in_and_do_not_count_as_work():
    pool = Pool(IDS, gold=set(IDS[:20]))
    done = annotate_all(pool, ["ann"], FeedSettings(overlap=0.0, gold=0.2))["ann"]
    position = [index for index, clip in enumerate(done) if clip in pool.gold]
    assert set(IDS[20:]) <= set(done) and len(position) == 20 and position[0] < 20 and position[10] > 20


def predicted(**values: np.ndarray) -> Pool:
    return Pool(IDS, probabilities=values, thresholds=dict.fromkeys(values, 0.3))


def test_uncertain_and_likely_clips_come_first():
    p = np.linspace(0, 1, 200)
    pool = predicted(editing=p, text=p[::-1].copy())
    assert next_clips(pool, "ann", set(), 2, PLAIN, "likely", "editing") == IDS[:-3:-1]
    assert set(next_clips(pool, "ann", set(), 2, PLAIN, "likely")) == {IDS[-1], IDS[0]}
    uncertain = next_clips(predicted(editing=p), "ann", set(), 5, PLAIN, "uncertain")
    assert all(abs(p[IDS.index(clip)] - 0.3) < 0.03 for clip in uncertain)
    unknown = predicted(editing=np.where(p < 0.5, np.nan, p))
    assert len(next_clips(unknown, "ann", set(), 200, PLAIN, "likely", "editing")) == 100


def test_disagreement_brings_a_third_person():
    pool = predicted(editing=np.full(200, 0.9), text=np.full(200, 0.1))
    pool.labels = {
        IDS[0]: {"ann": ("editing",), "bo": ()},  # people disagree
        IDS[1]: {"ann": ()},  # the model contradicts
        IDS[2]: {"ann": ("editing",)},  # agreement
        IDS[3]: {"ann": ("editing",), "bo": None},  # unsure is no answer
        IDS[4]: {"ann": ("editing",), "bo": (), "cleo": ()},  # three answers
    }
    assert next_clips(pool, "dora", set(), 10, PLAIN, "disagreement") == [IDS[0], IDS[1]]
    assert next_clips(pool, "bo", set(), 10, PLAIN, "disagreement") == [IDS[1]]
    assert next_clips(Pool(IDS), "bo", set(), 10, PLAIN, "disagreement") == []


def test_clusters_with_few_annotations_come_first():
    pool = Pool(IDS, clusters=["a"] * 100 + ["b"] * 90 + [""] * 10)
    pool.labels = {clip: {"bo": ()} for clip in IDS[:3]}
    chosen = next_clips(pool, "ann", set(), 3, PLAIN, "cluster")
    assert all(100 <= IDS.index(clip) < 190 for clip in chosen)


def test_the_mixed_feed_has_all_clips():
    p = np.random.default_rng(0).random(200)
    assert set(next_clips(predicted(editing=p), "ann", set(), 300, PLAIN)) == set(IDS)
    assert len(next_clips(Pool(IDS), "ann", set(), 300, PLAIN)) == 200


def test_fractions_are_checked():
    with pytest.raises(UserError, match="0 to 1"):
        FeedSettings(overlap=1.5)
