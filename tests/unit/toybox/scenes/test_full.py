"""Rules of the full grammar that hold for every seed."""

import itertools
from collections import Counter

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.toybox.render.motion import swept_box, toy_poses
from cogvideox.toybox.scenes.full import MIN_GAP
from cogvideox.toybox.scenes.grammar import (
    BOX_HALF_SIDE,
    CLASHING_COLORS,
    CORE,
    FULL,
    MOTIONS,
    PANS,
    SPIN_TURNS,
    UNLIT_BACKGROUNDS,
    ZOOMS,
    Scene,
    is_held_out,
    is_held_out_triple,
)
from cogvideox.toybox.scenes.sampler import sample_scene

SCENES = [sample_scene(seed, "full") for seed in range(1500)]


def test_the_same_seed_gives_the_same_scene():
    assert [sample_scene(seed, "full") for seed in range(50)] == SCENES[:50]
    assert len(set(SCENES)) == len(SCENES)


def test_the_full_grammar_includes_the_core_grammar():
    for name in ("colors", "shapes", "sizes", "motions", "backgrounds", "counts", "patterns", "cameras", "lights"):
        core, full = getattr(CORE, name), getattr(FULL, name)
        assert set(core) <= set(full) and len(set(full)) == len(full)


def test_every_word_is_sampled_often():
    for name, words in (
        ("count", FULL.counts),
        ("background", FULL.backgrounds),
        ("pattern", FULL.patterns),
        ("camera", FULL.cameras),
        ("light", FULL.lights),
    ):
        counts = Counter(scene.facts[name] for scene in SCENES)
        assert set(counts) == set(words) and min(counts.values()) > 45, counts
    for name, words in (("color", FULL.colors), ("shape", FULL.shapes), ("size", FULL.sizes), ("motion", FULL.motions)):
        counts = Counter(getattr(toy, name) for scene in SCENES for toy in scene.toys)
        assert set(counts) == set(words) and min(counts.values()) > 45, counts
    assert {toy.shape for scene in SCENES for toy in scene.toys if toy.motion == "spin"} == set(SPIN_TURNS)
    identical = [scene for scene in SCENES if len(scene.toys) > 1 and len({toy.facts for toy in scene.toys}) == 1]
    assert len(identical) > 100


def test_ambiguous_scenes_are_never_sampled():
    for scene in SCENES:
        if scene.camera != "still":
            assert scene.pattern != "plain" and all(toy.motion == "still" for toy in scene.toys)
        if scene.camera in PANS:
            assert scene.pattern != "striped" and 0.18 < scene.camera_extent < 0.35
        if scene.camera in ZOOMS:
            assert 1.3 < scene.camera_extent < 1.5 and not any(name.startswith("size") for name in scene.facts)
        assert scene.background not in UNLIT_BACKGROUNDS[scene.light]
        for number, toy in enumerate(scene.toys, start=1):
            assert toy.color not in CLASHING_COLORS[scene.background]
            assert toy.motion != "spin" or toy.shape in SPIN_TURNS
            name = "size" if number == 1 else f"size {number}"
            assert not (toy.motion in ("grow", "shrink") and name in scene.facts)
        facts = {toy.facts for toy in scene.toys}
        assert len({toy_facts[:2] for toy_facts in facts}) == len(facts)


def test_a_spin_does_not_end_at_its_symmetry_angle():
    for shape, symmetry in (("cube", 4), ("star", 5)):
        assert 0.1 < SPIN_TURNS[shape] * symmetry % 1 < 0.9


def boxes(scene: Scene, steps: int = 33) -> torch.Tensor:
    """Return left, top, right and bottom of every toy in the image over time: [toys steps 4]."""
    u = torch.linspace(0.0, 1.0, steps)
    n = len(scene.toys)
    pose = toy_poses(scene.toys, (u * scene.seconds).expand(n, -1), torch.full((n, 1), scene.seconds))
    half = BOX_HALF_SIDE * pose.radius
    box = torch.stack([pose.x - half, pose.y - half, pose.x + half, pose.y + half], dim=-1)
    dx, dy = PANS.get(scene.camera, (0.0, 0.0))
    box = box - scene.camera_extent * u[:, None] * torch.tensor([dx, dy, dx, dy])
    if scene.camera in ZOOMS:
        box = box * (scene.camera_extent ** (u if scene.camera == "zoom in" else 1 - u))[:, None]
    return box


def test_toys_stay_inside_the_frame_and_apart():
    for scene in SCENES[:600]:
        box = boxes(scene)
        assert box.abs().max() < 0.5
        for first, second in itertools.combinations(box, 2):
            gap = torch.maximum(first[:, :2] - second[:, 2:], second[:, :2] - first[:, 2:]).amax(dim=-1)
            assert gap.min() > MIN_GAP * 0.99 and gap.min() > 0.04


def test_toys_stay_inside_their_swept_box():
    for scene in SCENES[:600]:
        if scene.camera == "still":
            for toy, box in zip(scene.toys, boxes(scene)):
                left, top, right, bottom = swept_box(toy, scene.seconds)
                assert box[:, 0].min() > left - 1e-5 and box[:, 1].min() > top - 1e-5
                assert box[:, 2].max() < right + 1e-5 and box[:, 3].max() < bottom + 1e-5


def test_motions_are_large_enough_to_be_read():
    for scene in SCENES[:600]:
        for toy in scene.toys:
            if toy.motion in MOTIONS and toy.motion != "still":
                assert 14 / 64 < toy.speed * scene.seconds < 28 / 64
            if toy.motion in ("grow", "shrink"):
                assert max(toy.extent, 1 / toy.extent) >= 1.6


def test_facts_can_be_fixed():
    for name, words in (("motion", FULL.motions), ("camera", FULL.cameras), ("light", FULL.lights)):
        for word in words:
            assert sample_scene(3, "full", **{name: word}).facts[name] == word
    scene = sample_scene(5, "full", count="three", color="teal", shape="ring", size="large", pattern="dotted")
    assert len(scene.toys) == 3 and scene.toy.facts[:3] == ("teal", "ring", "large") and scene.pattern == "dotted"
    with pytest.raises(UserError, match="the full grammar excludes it"):
        sample_scene(3, "full", shape="ball", motion="spin")
    with pytest.raises(UserError, match="no camera 'roll'"):
        sample_scene(3, "full", camera="roll")
    with pytest.raises(UserError, match="the core grammar has no color 'teal'"):
        sample_scene(3, color="teal")


def test_scenes_of_single_frames():
    for seed in range(50):
        scene = sample_scene(seed, "full", seconds=0.0)
        assert all(toy.speed == 0.0 for toy in scene.toys) and boxes(scene, steps=1).abs().max() < 0.5


def test_the_held_out_rule_excludes_no_pair_of_words():
    triples = [
        triple
        for triple in itertools.product(FULL.colors, FULL.shapes, FULL.motions)
        if triple[2] != "spin" or triple[1] in SPIN_TURNS
    ]
    held_out = {triple for triple in triples if is_held_out_triple(*triple)}
    assert 0.05 < len(held_out) / len(triples) < 0.15
    for first, second in ((0, 1), (0, 2), (1, 2)):
        seen = Counter((t[first], t[second]) for t in triples if t not in held_out)
        assert set(seen) == {(t[first], t[second]) for t in triples}
    assert not any(is_held_out(sample_scene(seed, "full", split="training")) for seed in range(100))
    assert all(is_held_out(sample_scene(seed, "full", split="held_out")) for seed in range(50))
