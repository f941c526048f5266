import pytest
import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.toybox.captions.caption import caption, parse
from cogvideox.toybox.judge.full import read_full
from cogvideox.toybox.judge.judge import Mark, judge, judge_batch, judge_prompt, rates
from cogvideox.toybox.render.render import render, render_batch
from cogvideox.toybox.scenes.grammar import FACTS, FULL, Scene
from cogvideox.toybox.scenes.sample_core import draw

SCENES = [draw(seed, "full") for seed in range(70_000, 70_096)]


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return render_batch(SCENES)


def test_true_renders_are_read_right(clips: Tensor):
    score = rates(judge_batch(clips, SCENES))
    assert set(score) == {*FACTS["full"], "all"}
    assert all(score[name].value >= 0.99 for name in FACTS["full"]) and score["all"].value >= 0.96, score


def test_core_scenes_are_read_right_by_the_full_grammar():
    scenes = [draw(seed) for seed in range(50_000, 50_032)]
    verdicts = judge_batch(render_batch(scenes), [scene.facts for scene in scenes], "full")
    assert rates(verdicts)["all"].value >= 0.96


def test_noisy_clips_are_still_read_right(clips: Tensor):
    some = clips[:32].float()
    noisy = some + 255 * 0.03 * torch.randn(some.shape, generator=torch.Generator().manual_seed(0))
    score = rates(judge_batch(noisy.round().clamp(0, 255).to(torch.uint8), SCENES[:32]))
    assert all(score[name].value >= 0.97 for name in FACTS["full"]), score


def test_shuffled_prompts_are_right_by_chance_only(clips: Tensor):
    prompts = [parse(caption(scene, "dense", seed, complete=True), "full") for seed, scene in enumerate(SCENES)]
    score = rates(judge_batch(clips[:64], prompts[1:65], "full"))
    # Toys are paired in the best way, which lifts chance above one in so many words.
    for name, most in (("color", 0.35), ("shape", 0.45), ("background", 0.35), ("count", 0.6), ("motion", 0.6)):
        assert score[name].value < most, (name, score[name])
    assert score["all"].value < 0.02


def test_other_sizes_and_lengths_are_read_too():
    scenes = SCENES[:12]
    large = render_batch(scenes, num_frames=17, height=128, width=128, fps=16)
    wide = render_batch(scenes, num_frames=9, height=64, width=96, fps=8)
    for videos in (large, wide):
        assert rates(judge_batch(videos, scenes))["all"].value > 0.9


def test_scenes_of_both_grammars_can_be_marked_together(clips: Tensor):
    core = draw(3)
    videos = torch.cat([render(core)[None], clips[:1]])
    first, second = judge_batch(videos, [core, SCENES[0]])
    assert set(first) == set(core.facts) and set(second) == set(SCENES[0].facts)
    assert all(first.values()) and all(second.values())


def test_an_image_is_not_asked_for_motion_and_camera():
    scene = draw(8, "full", count="two")
    verdict = judge(render(scene, num_frames=1), scene)
    assert "camera" not in verdict and not any("motion" in name for name in verdict) and all(verdict.values())


def test_a_prompt_is_marked_fact_by_fact():
    scene: Scene = draw(2, "full", count="one", color="red", shape="star", motion="left", background="white")
    marks = judge_prompt(render(scene), "a blue star moves left on a white floor")
    assert marks["color"] == Mark("blue", "red") and not marks["color"].right
    assert all(marks[name].right for name in ("shape", "motion", "background", "count"))
    assert judge_prompt(render(scene), "a dog") == {}


def test_toys_that_are_missing_or_too_many_are_wrong():
    scene = draw(4, "full", count="one", color="red", shape="ball", motion="still")
    marks = judge_prompt(render(scene), "a red ball and a blue cube")
    assert marks["color"].right and marks["shape"].right
    assert marks["count"] == Mark("two", "one")
    assert marks["color 2"] == Mark("blue", None) and marks["shape 2"].seen is None
    assert judge_prompt(render(scene), "five red balls")["count"] == Mark("five", "one")


def test_what_is_no_scene_has_no_facts():
    nothing = torch.full((9, 64, 64, 3), 0, dtype=torch.uint8)
    nothing[..., 1] = 255
    (reading,) = read_full(nothing[None])
    assert reading.toys == () and reading.facts["background"] is None and reading.facts["count"] is None
    noise = torch.randint(0, 256, (9, 64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    (reading,) = read_full(noise[None])
    assert reading.facts["background"] is None


def test_every_pair_of_floor_and_light_is_told_apart():
    pairs = [(name, light) for light in FULL.lights for name in FULL.backgrounds]
    scenes = []
    for name, light in pairs:
        try:
            scenes.append(draw(11, "full", background=name, light=light))
        except UserError:  # black is lit by day only, and cyan not in the evening
            continue
    assert len(scenes) == 15
    readings = read_full(render_batch(scenes))
    assert all(r.facts["background"] == s.background and r.facts["light"] == s.light for r, s in zip(readings, scenes))
