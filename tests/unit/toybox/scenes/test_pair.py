"""Properties of the pair grammar, for many seeds."""

from collections import Counter

from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.render.motion import swept_box
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.full import MIN_GAP
from cogvideox.toybox.scenes.grammar import CORE, PAIR, is_held_out
from cogvideox.toybox.scenes.sampler import sample_scene

SCENES = [sample_scene(seed, "pair", seconds=2.0) for seed in range(400)]
PAIRS = [scene for scene in SCENES if len(scene.toys) == 2]


def test_half_of_the_scenes_are_core_scenes():
    singles = [scene for scene in SCENES if len(scene.toys) == 1]
    assert 160 < len(singles) < 240 and {scene.grammar for scene in singles} == {"core"}


def test_pairs_use_the_words_of_the_core_grammar():
    words = (CORE.colors, CORE.shapes, CORE.sizes, CORE.motions)
    for scene in PAIRS:
        assert all(fact in allowed for toy in scene.toys for fact, allowed in zip(toy.facts, words))
        assert (scene.grammar, scene.pattern, scene.camera, scene.light) == ("full", "plain", "still", "day")
    motions = Counter(toy.motion for scene in PAIRS for toy in scene.toys)
    assert set(motions) == set(PAIR.motions) and min(motions.values()) > 30


def test_toys_stay_apart_and_captions_can_distinguish_them():
    for scene in PAIRS:
        box, other_box = (swept_box(toy, scene.seconds) for toy in scene.toys)
        gaps = box[0] - other_box[2], other_box[0] - box[2], box[1] - other_box[3], other_box[1] - box[3]
        assert max(gaps) > MIN_GAP
        first, second = scene.toys
        assert (first.color, first.shape) != (second.color, second.shape) or first.facts == second.facts


def test_the_split_and_fixed_facts_apply():
    training = [sample_scene(seed, "pair", split="training", count="two", color="red") for seed in range(60)]
    assert not any(map(is_held_out, training))
    assert {len(scene.toys) for scene in training} == {2} and {scene.toy.color for scene in training} == {"red"}
    assert all(map(is_held_out, (sample_scene(seed, "pair", split="held_out") for seed in range(3))))


def test_the_judge_reads_all_facts_at_the_size_of_the_shipped_model():
    scenes = PAIRS[:24]
    videos = render_scenes(scenes, num_frames=17, height=96, width=96)
    assert fact_accuracies(judge_clips(videos, scenes))["all"].value == 1.0
