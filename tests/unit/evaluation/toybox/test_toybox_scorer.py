"""Scores of rendered clips, whose facts are known."""

from pathlib import Path

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.evaluation.scorer import Item, VideoFile
from cogvideox.evaluation.toybox.scorer import ToyboxFacts, measure, score_samples, temporal_consistency
from cogvideox.records import Video
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene

SIZE = {"num_frames": 9, "height": 64, "width": 64, "fps": 8.0}


def test_rendered_clips_are_right_and_consistent(tmp_path: Path):
    for seed in range(4):
        scene = sample_scene(seed, "pair" if seed % 2 else "core")
        file = tmp_path / f"{seed}.mp4"
        Video(render_scene(scene, **SIZE).numpy(), 8.0).save(file)
        item = Item(str(seed), "", info={"facts": scene.facts, "grammar": "core" if seed % 2 == 0 else "full"})
        result = measure(VideoFile(file), item)
        assert result["all"] == 1 and result["correct"] == 1.0
        assert result["color"] == result["color facts"] == len(scene.toys)
        assert result["consistency"] == 1.0


def test_a_toy_that_changes_color_is_inconsistent():
    """In 2 of 8 frames one of four readings differs: 1 - 2 / 32."""
    first, second = (
        render_scene(sample_scene(5, color=color, motion="still"), num_frames=8, height=64, width=64, fps=8.0)
        for color in ("red", "blue")
    )
    assert temporal_consistency(torch.cat([first[:6], second[6:]])) == 1 - 2 / 32


def test_wrong_facts_are_counted(tmp_path: Path):
    scene = sample_scene(1)
    file = tmp_path / "a.mp4"
    Video(render_scene(scene, **SIZE).numpy(), 8.0).save(file)
    wrong = "blue" if scene.toy.color != "blue" else "red"
    facts = {**scene.facts, "color": wrong}
    result = measure(VideoFile(file), Item("a", "", info={"facts": facts, "grammar": "core"}))
    assert (result["color"], result["shape"], result["all"], result["correct"]) == (0, 1, 0, 0.8)
    metrics = {metric.name: metric.statistic([result]) for metric in ToyboxFacts().metrics}
    assert metrics["toybox/color"] == 0.0 and metrics["toybox/shape"] == 1.0


def test_noise_is_inconsistent():
    noise = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert temporal_consistency(noise) < 0.7


def test_what_cannot_be_judged_is_an_error(tmp_path: Path):
    file = tmp_path / "a.mp4"
    Video(render_scene(sample_scene(1), **SIZE).numpy(), 8.0).save(file)
    with pytest.raises(UserError, match="states no fact"):
        measure(VideoFile(file), Item("a", "a dog", info={"facts": {}}))


def test_samples_of_a_run_have_a_consistency():
    scenes = [sample_scene(seed) for seed in (0, 1)]
    videos = torch.stack([render_scene(scene, **SIZE) for scene in scenes])
    scores = score_samples(videos, scenes)
    assert scores["all"].value == scores["consistency"].value == 1.0
    assert "consistency" not in score_samples(videos[:, :1], scenes)
