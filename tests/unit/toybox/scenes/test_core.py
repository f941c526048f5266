import itertools
from collections import Counter
from dataclasses import replace

import pytest

from cogvideox.errors import UserError
from cogvideox.toybox.scenes import grammar
from cogvideox.toybox.scenes import sample_core as world


def test_the_same_seed_draws_the_same_scene():
    assert [world.draw(seed) for seed in range(20)] == [world.draw(seed) for seed in range(20)]
    assert len({world.draw(seed) for seed in range(200)}) == 200


def test_every_word_is_drawn_about_equally_often():
    scenes = [world.draw(seed) for seed in range(1200)]
    for name in ("color", "shape", "size", "motion", "background"):
        counts = Counter(scene.facts[name] for scene in scenes)
        words = getattr(grammar.CORE, name + "s")
        assert set(counts) == set(words)
        assert min(counts.values()) > 0.7 * 1200 / len(words)


def position(toy: grammar.Toy, time: float, seconds: float) -> tuple[float, float]:
    """Where the toy's centre is at `time`, by the definition of a scene."""
    (dx, dy), way = grammar.MOTIONS[toy.motion], toy.speed * min(time, seconds)
    return toy.x + dx * way, toy.y + dy * way


def test_a_toy_stays_inside_the_frame_and_moves_far_enough_to_be_seen():
    for seed in range(500):
        scene = world.draw(seed)
        toy = scene.toy
        for time in (0.0, 0.5, 1.0, 3.0):
            x, y = position(toy, time, scene.seconds)
            assert max(abs(x), abs(y)) + grammar.REACH * toy.radius <= 0.5
        way = toy.speed * scene.seconds
        assert way == 0.0 if toy.motion == "still" else 20 / 64 <= way <= 28 / 64


def test_fixed_facts_hold_and_leave_the_others_alone():
    free, fixed = world.draw(7), world.draw(7, color="purple", background="brown")
    assert fixed.toy.color == "purple" and fixed.background == "brown"
    assert (fixed.toy.shape, fixed.toy.size, fixed.toy.motion) == (free.toy.shape, free.toy.size, free.toy.motion)
    with pytest.raises(UserError, match="no color 'mauve'; its words are red, green"):
        world.draw(7, color="mauve")
    with pytest.raises(UserError, match="facts are color, shape, size, motion, background"):
        world.draw(7, mood="merry")
    with pytest.raises(UserError, match="no grammar 'grand' of scenes; there is core, full"):
        world.draw(7, "grand")


def test_a_single_frame_has_a_scene_too():
    """In a clip of no length nothing gets anywhere, and all else is as it is in a longer one."""
    for seed in range(20):
        image, clip = world.draw(seed, seconds=0.0), world.draw(seed)
        assert image.toy.speed == 0.0
        assert replace(image.toy, speed=clip.toy.speed) == clip.toy


def test_the_withheld_rule_keeps_back_a_tenth_and_leaves_every_pair_in_training():
    triples = list(itertools.product(grammar.CORE.colors, grammar.CORE.shapes, grammar.CORE.motions))
    held = [triple for triple in triples if grammar.withheld_triple(*triple)]
    assert len(held) == 10
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(triple[first], triple[second]) for triple in triples}
        seen = Counter((t[first], t[second]) for t in triples if t not in held)
        assert set(seen) == pairs


def test_both_sides_of_the_rule_can_be_drawn():
    assert not any(grammar.withheld(world.draw(seed, side="training")) for seed in range(200))
    assert all(grammar.withheld(world.draw(seed, side="withheld")) for seed in range(50))
    with pytest.raises(UserError, match="no withheld scene"):
        world.draw(1, side="withheld", color="red", shape="cube", motion="left")
