"""Scores of videos whose value is known: the truth is best, and no failure is better than it."""

import math

import numpy as np
import pytest
import torch

from cogvideox.ablation.scores.diffusion_scores import ScenePrompt, brightness_slope, detail_error, measure
from cogvideox.ablation.scores.metrics import metric_of
from cogvideox.toybox.captions.caption import caption_scene
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video.transform import to_model

RED_BALL = {"color": "red", "shape": "ball", "size": "large", "background": "white"}


def prompt(motion: str) -> ScenePrompt:
    scene = sample_scene(3, motion=motion, **RED_BALL)
    return ScenePrompt(caption_scene(scene, "plain", 0, complete=True), scene)


def frames_of(target: ScenePrompt, side: int = 64) -> np.ndarray:
    return render_scene(target.scene, num_frames=9, height=side, width=side).numpy()


def test_too_many_and_too_few_toys_are_errors():
    target = prompt("still")
    truth = frames_of(target)
    floor = np.broadcast_to(truth[:, :1, :1], truth.shape).copy()
    copies = np.tile(frames_of(target, side=32), (1, 3, 3, 1))
    assert [measure(frames, target)["toy count error"] for frames in (truth, floor, copies)] == [0, 1, 8]
    assert metric_of("toy count error").lower_is_better


def test_blur_and_noise_are_errors_of_detail():
    truth = to_model(torch.from_numpy(frames_of(prompt("left"))[None]))
    blurred = torch.nn.functional.avg_pool3d(truth, (1, 5, 5), stride=1, padding=(0, 2, 2))
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    errors = [float(detail_error(video, truth)) for video in (truth, blurred, noisy, torch.zeros_like(truth))]
    assert errors[0] == 0
    assert min(errors[1:]) > 0.2
    assert max(errors) < math.inf
    assert metric_of("detail error").lower_is_better
    assert metric_of("sharpness error").lower_is_better


def test_a_frozen_video_has_no_consistent_motion():
    target = prompt("left")
    truth = frames_of(target)
    frozen = np.repeat(truth[:1], len(truth), axis=0)
    assert measure(truth, target)["consistent motion"] == 1
    assert measure(frozen, target)["consistency"] == 1
    assert measure(frozen, target)["consistent motion"] == measure(frozen, target)["motion"] == 0
    assert math.isnan(measure(frozen, prompt("still"))["consistent motion"])


def test_the_slope_of_brightness_is_the_range_relative_to_the_truth():
    truth = [-0.8, -0.2, 0.2, 0.8]

    def slope(brightness: list[float]) -> float:
        return float(np.mean(brightness_slope(brightness, truth)))

    assert slope(truth) == pytest.approx(1)
    assert slope([0.1] * 4) == pytest.approx(0)
    assert slope([-0.3, 0.0, 0.2, 0.5]) == pytest.approx(0.5)
    assert slope([1.0, -1.0, -1.0, 1.0]) == pytest.approx(0)  # extremes that do not depend on the prompt
    assert not metric_of("brightness slope").lower_is_better
