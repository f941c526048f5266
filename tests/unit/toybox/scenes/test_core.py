import itertools
from collections import Counter
from dataclasses import replace

import pytest

from cogvideox.errors import UserError
from cogvideox.toybox.scenes import grammar
from cogvideox.toybox.scenes.sampler import sample_scene


def test_the_same_seed_gives_the_same_scene():
    assert [sample_scene(seed) for seed in range(20)] == [sample_scene(seed) for seed in range(20)]
    assert len({sample_scene(seed) for seed in range(200)}) == 200


def test_words_are_sampled_uniformly():
    scenes = [sample_scene(seed) for seed in range(1200)]
    for name in ("color", "shape", "size", "motion", "background"):
        counts = Counter(scene.facts[name] for scene in scenes)
        words = getattr(grammar.CORE, name + "s")
        assert set(counts) == set(words)
        assert min(counts.values()) > 0.7 * 1200 / len(words)


def position(toy: grammar.Toy, time: float, seconds: float) -> tuple[float, float]:
    """Center of the toy at `time`, by the definition of a scene."""
    (dx, dy), distance = grammar.MOTIONS[toy.motion], toy.speed * min(time, seconds)
    return toy.x + dx * distance, toy.y + dy * distance


def test_toys_stay_inside_the_frame_and_move_far_enough():
    for seed in range(500):
        scene = sample_scene(seed)
        toy = scene.toy
        for time in (0.0, 0.5, 1.0, 3.0):
            x, y = position(toy, time, scene.seconds)
            assert max(abs(x), abs(y)) + grammar.BOX_HALF_SIDE * toy.radius <= 0.5
        travel = toy.speed * scene.seconds
        assert travel == 0.0 if toy.motion == "still" else 20 / 64 <= travel <= 28 / 64


def test_fixed_facts_do_not_change_the_other_facts():
    free, fixed = sample_scene(7), sample_scene(7, color="purple", background="brown")
    assert fixed.toy.color == "purple" and fixed.background == "brown"
    assert (fixed.toy.shape, fixed.toy.size, fixed.toy.motion) == (free.toy.shape, free.toy.size, free.toy.motion)
    with pytest.raises(UserError, match="no color 'mauve'; choose one of red, green"):
        sample_scene(7, color="mauve")
    with pytest.raises(UserError, match="no fact 'mood'; its facts are color, shape, size, motion, background"):
        sample_scene(7, mood="merry")
    with pytest.raises(UserError, match="unknown grammar 'grand': choose one of core, full"):
        sample_scene(7, "grand")


def test_scenes_of_single_frames():
    """With 0 seconds nothing moves; everything else equals a longer clip's scene."""
    for seed in range(20):
        image, clip = sample_scene(seed, seconds=0.0), sample_scene(seed)
        assert image.toy.speed == 0.0
        assert replace(image.toy, speed=clip.toy.speed) == clip.toy


def test_the_held_out_rule_excludes_ten_triples_but_no_pair_of_words():
    triples = list(itertools.product(grammar.CORE.colors, grammar.CORE.shapes, grammar.CORE.motions))
    held_out = [triple for triple in triples if grammar.is_held_out_triple(*triple)]
    assert len(held_out) == 10
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(triple[first], triple[second]) for triple in triples}
        seen = Counter((t[first], t[second]) for t in triples if t not in held_out)
        assert set(seen) == pairs


def test_both_splits_can_be_sampled():
    assert not any(grammar.is_held_out(sample_scene(seed, split="training")) for seed in range(200))
    assert all(grammar.is_held_out(sample_scene(seed, split="held_out")) for seed in range(50))
    with pytest.raises(UserError, match="no held-out scene"):
        sample_scene(1, split="held_out", color="red", shape="cube", motion="left")
