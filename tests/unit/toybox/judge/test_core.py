from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cogvideox.toybox.captions.caption import caption_scene, parse_prompt
from cogvideox.toybox.judge.core import read_facts
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clip, judge_clips
from cogvideox.toybox.render.renderer import render_scene, render_scenes
from cogvideox.toybox.scenes import grammar
from cogvideox.toybox.scenes.sampler import sample_scene

FACTS = grammar.FACTS["core"]
SCENES = [sample_scene(seed) for seed in range(50_000, 50_320)]


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return render_scenes(SCENES)


def degrade(clips: Tensor, blurs: int, noise: float) -> Tensor:
    """Blur and noise, as from a weak autoencoder."""
    planes = clips.flatten(0, 1).permute(0, 3, 1, 2).float()
    for _ in range(blurs):
        planes = avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    planes = planes + 255 * noise * torch.randn(planes.shape, generator=torch.Generator().manual_seed(0))
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, clips.shape[:2])


def test_clean_renders_are_judged_correct(clips: Tensor):
    score = fact_accuracies(judge_clips(clips, SCENES))
    assert all(score[name].value >= 0.99 for name in (*FACTS, "all")), score


def test_blurred_and_noisy_renders_are_judged_correct(clips: Tensor):
    score = fact_accuracies(judge_clips(degrade(clips[:160], blurs=2, noise=0.03), SCENES[:160]))
    assert all(score[name].value >= 0.97 for name in (*FACTS, "all")), score


def test_shuffled_prompts_score_at_chance_level(clips: Tensor):
    prompts = [caption_scene(scene, "dense", seed) for seed, scene in enumerate(SCENES)]
    score = fact_accuracies(judge_clips(clips[:200], [parse_prompt(text) for text in prompts[1:201]]))
    for name in FACTS:
        chance = 1 / len(getattr(grammar.CORE, name + "s"))
        assert abs(score[name].value - chance) < 0.1, (name, score[name])
    assert score["all"].value < 0.02


def test_other_frame_sizes_and_clip_lengths():
    scenes = SCENES[:24]
    large = render_scenes(scenes, num_frames=17, height=128, width=128, fps=16)
    wide = render_scenes(scenes, num_frames=5, height=48, width=80, fps=4)
    for videos in (large, wide):
        assert all(all(verdict.values()) for verdict in judge_clips(videos, scenes))


def test_motion_is_not_judged_in_a_single_frame():
    verdict = judge_clip(render_scene(SCENES[0], num_frames=1), SCENES[0])
    assert set(verdict) == set(FACTS) - {"motion"} and all(verdict.values())


def test_only_facts_named_by_the_prompt_are_judged():
    clip = render_scene(sample_scene(1, color="red", shape="cone", motion="left"))
    assert judge_clip(clip, parse_prompt("a red cone")) == {"color": True, "shape": True}
    assert judge_clip(clip, parse_prompt("a blue cone drifting to the left")) == {
        "color": False,
        "shape": True,
        "motion": True,
    }


def test_unreadable_facts_are_none():
    empty = render_scene(sample_scene(2, background="pink"))
    empty[:] = empty[0, :1, :1]
    nothing = {"color": None, "shape": None, "size": None, "motion": None}
    assert read_facts(empty[None])[0] == {**nothing, "background": "pink"}
    # Two toys in a frame, and a toy that disappears halfway.
    scene = sample_scene(21, motion="still", size="small", color="red", background="white")
    left, right = replace(scene.toy, x=-0.2, y=0.0), replace(scene.toy, x=0.2, y=0.1)
    (reading,) = read_facts(render_scene(replace(scene, toys=(left, right)))[None])
    assert reading == {"color": "red", "shape": None, "size": None, "motion": "still", "background": "white"}
    half = render_scene(sample_scene(3, motion="left", background="white", color="green"))
    half[4:] = half[0, 0, 0]
    assert read_facts(half[None])[0]["motion"] is None


def test_a_diagonal_motion_has_no_direction():
    clip = render_scene(sample_scene(5, motion="right", size="small", background="white", color="blue"))
    slanted = torch.stack([frame.roll(3 * i, dims=0) for i, frame in enumerate(clip)])
    assert read_facts(slanted[None])[0]["motion"] is None


def test_readings_do_not_depend_on_the_batch(clips: Tensor):
    assert read_facts(clips[:3]) == [read_facts(clip[None])[0] for clip in clips[:3]]
    with pytest.raises(ValueError, match="3 videos"):
        judge_clips(clips[:3], SCENES[:2])


def test_clips_without_judged_facts_do_not_count():
    assert fact_accuracies([{}]) == {}
    assert fact_accuracies([{}, {"color": True}, {"color": False}])["all"].value == 0.5


def test_accuracies_have_wilson_intervals():
    scores = fact_accuracies([{"color": True}] * 90 + [{"color": False}] * 10)
    assert set(scores) == {"color", "all"}
    (low, high), protocol = scores["color"].interval, scores["color"].protocol
    assert scores["color"].value == 0.9 and 0.82 < low < 0.85 and 0.94 < high < 0.95
    assert scores["color"].metric == "toybox/color" and protocol["num_clips"] == 100
