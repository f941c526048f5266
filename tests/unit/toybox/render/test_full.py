from dataclasses import replace

import pytest
import torch

from cogvideox.toybox.render.render import render, render_batch
from cogvideox.toybox.scenes.grammar import FULL, Scene, Toy
from cogvideox.toybox.scenes.sample_core import draw


def test_a_clip_does_not_depend_on_its_batch():
    scenes = [draw(seed, "full") for seed in range(10)]
    batch = render_batch([*scenes, *scenes])
    for index, scene in enumerate(scenes):
        assert torch.equal(batch[index], render(scene)) and torch.equal(batch[index], batch[index + 10])


def test_sizes_and_frame_rates_agree():
    for seed in range(8):
        scene = draw(seed, "full")
        small, large = render(scene).float(), render(scene, num_frames=17, height=128, width=128, fps=16).float()
        shrunk = large[::2].unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean(dim=(2, 4))
        # The edges of a pattern are as wide as a pixel, whatever its size.
        assert (small - shrunk).abs().mean() < 3.0 and (small - shrunk).mean().abs() < 0.4


def test_what_moves_rests_once_it_has_arrived():
    for word in ("orbit", "bounce", "spin", "grow"):
        clip = render(draw(3, "full", count="one", motion=word, camera="still"), num_frames=13)
        assert not torch.equal(clip[0], clip[3]) and torch.equal(clip[8], clip[12])


def alone(shape: str, motion: str = "still", extent: float = 0.0, **scene: str) -> Scene:
    toy = Toy("red", shape, "large", motion, 0.0, 0.1, 0.15, 0.0, extent=extent)
    return Scene(toys=(toy,), background="white", grammar="full", **scene)


@pytest.mark.parametrize("shape", FULL.shapes)
def test_silhouettes_fill_their_box_and_do_not_leave_it(shape: str):
    clip = render(alone(shape), num_frames=1, height=200, width=200)[0].float()
    red = (clip[..., 0] - clip[..., 1] > 60).nonzero()
    (top, left), (bottom, right) = red.amin(dim=0).tolist(), red.amax(dim=0).tolist()
    assert 120 - 33 < top < 120 - 25 and 120 + 20 < bottom < 120 + 33
    assert abs((left + right) / 2 - 99.5) < 3 and 40 < right - left < 66


@pytest.mark.parametrize(("shape", "turns"), [("cube", 0.25), ("star", 0.2)])
def test_a_turn_by_the_angle_of_symmetry_looks_the_same_and_half_of_it_does_not(shape: str, turns: float):
    clip = render(alone(shape, "spin", turns), num_frames=3, fps=2).float()
    assert (clip[0] - clip[2]).abs().mean() < 0.1 < 1.0 < (clip[0] - clip[1]).abs().mean()


def test_lights_differ_and_evening_casts_its_shadows_to_the_left():
    day, evening, night = (render(alone("ball", light=light), num_frames=1)[0].float() for light in FULL.lights)
    assert evening[0, :, 2].mean() < 0.75 * day[0, :, 2].mean() and night.mean() < 0.6 * day.mean()
    row = 64 // 2 + 14  # beside the foot
    assert day[row, 48].sum() < day[row, 15].sum() and evening[row, 48].sum() > evening[row, 15].sum()


def test_a_bouncing_toy_leaves_its_shadow_on_the_floor():
    scene = alone("ball", "bounce", 0.25)
    rest, high = render(scene)[[0, 2]].float()
    foot = slice(46, 48), slice(30, 44)
    assert high[foot].mean() < 0.9 * high[2:6, 2:6].mean()  # a shadow, and nothing in front of it
    assert (
        (high[foot].amax(dim=-1) - high[foot].amin(dim=-1)).max()
        < 12
        < (rest[foot].amax(-1) - rest[foot].amin(-1)).max()
    )


def test_a_pan_moves_the_floor_and_what_stands_on_it_together():
    scene = replace(draw(5, "full", camera="pan right", count="one"), way=0.25)
    clip = render(scene, num_frames=9)
    moved = (clip[8, :, :48].float() - clip[0, :, 16:].float()).abs()
    assert moved.mean() < 6.0  # the lamp stays where it is
    assert (clip[8].float() - clip[0].float()).abs().mean() > 10.0
