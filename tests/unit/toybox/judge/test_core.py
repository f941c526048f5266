from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cogvideox.toybox.captions.caption import caption, parse
from cogvideox.toybox.judge.core import read, read_batch
from cogvideox.toybox.judge.judge import judge, judge_batch, rates
from cogvideox.toybox.render.render import render, render_batch
from cogvideox.toybox.scenes import grammar
from cogvideox.toybox.scenes.sample_core import draw

FACTS = grammar.FACTS["core"]
SCENES = [draw(seed) for seed in range(50_000, 50_320)]


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return render_batch(SCENES)


def worn(clips: Tensor, blurs: int, noise: float) -> Tensor:
    """What a weak autoencoder makes of clips: soft edges and a little noise."""
    planes = clips.flatten(0, 1).permute(0, 3, 1, 2).float()
    for _ in range(blurs):
        planes = avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    planes = planes + 255 * noise * torch.randn(planes.shape, generator=torch.Generator().manual_seed(0))
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, clips.shape[:2])


def test_true_renders_are_read_right(clips: Tensor):
    score = rates(judge_batch(clips, SCENES))
    assert all(score[name].value >= 0.99 for name in (*FACTS, "all")), score


def test_blurred_and_noisy_clips_are_still_read_right(clips: Tensor):
    score = rates(judge_batch(worn(clips[:160], blurs=2, noise=0.03), SCENES[:160]))
    assert all(score[name].value >= 0.97 for name in (*FACTS, "all")), score


def test_shuffled_prompts_are_right_by_chance_only(clips: Tensor):
    prompts = [caption(scene, "dense", seed) for seed, scene in enumerate(SCENES)]
    score = rates(judge_batch(clips[:200], [parse(text) for text in prompts[1:201]]))
    for name in FACTS:
        chance = 1 / len(getattr(grammar.CORE, name + "s"))
        assert abs(score[name].value - chance) < 0.1, (name, score[name])
    assert score["all"].value < 0.02


def test_other_sizes_and_lengths_are_read_too():
    scenes = SCENES[:24]
    large = render_batch(scenes, num_frames=17, height=128, width=128, fps=16)
    wide = render_batch(scenes, num_frames=5, height=48, width=80, fps=4)
    for videos in (large, wide):
        assert all(all(verdict.values()) for verdict in judge_batch(videos, scenes))


def test_an_image_is_not_asked_for_motion():
    verdict = judge(render(SCENES[0], num_frames=1), SCENES[0])
    assert set(verdict) == set(FACTS) - {"motion"} and all(verdict.values())


def test_only_the_facts_that_a_prompt_names_are_marked():
    clip = render(draw(1, color="red", shape="cone", motion="left"))
    assert judge(clip, parse("a red cone")) == {"color": True, "shape": True}
    assert judge(clip, parse("a blue cone drifting to the left")) == {"color": False, "shape": True, "motion": True}


def test_what_is_not_one_toy_has_no_facts():
    empty = render(draw(2, background="pink"))
    empty[:] = empty[0, :1, :1]
    nothing = {"color": None, "shape": None, "size": None, "motion": None}
    assert read(empty) == {**nothing, "background": "pink"}
    # Two toys at once, and a toy that vanishes halfway.
    one = draw(21, motion="still", size="small", color="red", background="white")
    here, there = replace(one.toy, x=-0.2, y=0.0), replace(one.toy, x=0.2, y=0.1)
    both = read(render(replace(one, toys=(here, there))))
    assert both == {"color": "red", "shape": None, "size": None, "motion": "still", "background": "white"}
    half = render(draw(3, motion="left", background="white", color="green"))
    half[4:] = half[0, 0, 0]
    assert read(half)["motion"] is None


def test_a_slanted_way_has_no_direction():
    clip = render(draw(5, motion="right", size="small", background="white", color="blue"))
    slanted = torch.stack([frame.roll(3 * i, dims=0) for i, frame in enumerate(clip)])
    assert read(slanted)["motion"] is None


def test_reading_does_not_depend_on_the_batch(clips: Tensor):
    assert read_batch(clips[:3]) == [read(clip) for clip in clips[:3]]
    with pytest.raises(ValueError, match="3 videos"):
        judge_batch(clips[:3], SCENES[:2])


def test_a_prompt_that_names_nothing_is_not_right():
    assert rates([{}]) == {}
    assert rates([{}, {"color": True}, {"color": False}])["all"].value == 0.5


def test_rates_carry_intervals():
    scores = rates([{"color": True}] * 90 + [{"color": False}] * 10)
    assert set(scores) == {"color", "all"}
    (low, high), protocol = scores["color"].interval, scores["color"].protocol
    assert scores["color"].value == 0.9 and 0.82 < low < 0.85 and 0.94 < high < 0.95
    assert scores["color"].metric == "toybox/color" and protocol["num_clips"] == 100
