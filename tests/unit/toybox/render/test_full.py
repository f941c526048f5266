from dataclasses import replace

import pytest
import torch

from cogvideox.toybox.render.renderer import render_scene, render_scenes
from cogvideox.toybox.scenes.grammar import FULL, Scene, Toy
from cogvideox.toybox.scenes.sampler import sample_scene


def test_a_render_does_not_depend_on_its_batch():
    scenes = [sample_scene(seed, "full") for seed in range(10)]
    batch = render_scenes([*scenes, *scenes])
    for index, scene in enumerate(scenes):
        assert torch.equal(batch[index], render_scene(scene)) and torch.equal(batch[index], batch[index + 10])


def test_renders_agree_across_sizes_and_frame_rates():
    for seed in range(8):
        scene = sample_scene(seed, "full")
        small, large = (
            render_scene(scene).float(),
            render_scene(scene, num_frames=17, height=128, width=128, fps=16).float(),
        )
        shrunk = large[::2].unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean(dim=(2, 4))
        # Pattern edges are one pixel wide at every size, so they differ.
        assert (small - shrunk).abs().mean() < 3.0 and (small - shrunk).mean().abs() < 0.4


def test_toys_rest_after_the_end_of_their_motion():
    for word in ("orbit", "bounce", "spin", "grow"):
        clip = render_scene(sample_scene(3, "full", count="one", motion=word, camera="still"), num_frames=13)
        assert not torch.equal(clip[0], clip[3]) and torch.equal(clip[8], clip[12])


def one_toy(shape: str, motion: str = "still", extent: float = 0.0, **scene: str) -> Scene:
    toy = Toy("red", shape, "large", motion, 0.0, 0.1, 0.15, 0.0, extent=extent)
    return Scene(toys=(toy,), background="white", grammar="full", **scene)


@pytest.mark.parametrize("shape", FULL.shapes)
def test_silhouettes_fill_their_bounding_box(shape: str):
    clip = render_scene(one_toy(shape), num_frames=1, height=200, width=200)[0].float()
    red = (clip[..., 0] - clip[..., 1] > 60).nonzero()
    (top, left), (bottom, right) = red.amin(dim=0).tolist(), red.amax(dim=0).tolist()
    assert 120 - 33 < top < 120 - 25 and 120 + 20 < bottom < 120 + 33
    assert abs((left + right) / 2 - 99.5) < 3 and 40 < right - left < 66


@pytest.mark.parametrize(("shape", "turns"), [("cube", 0.25), ("star", 0.2)])
def test_a_rotation_by_the_symmetry_angle_changes_nothing_and_half_of_it_does(shape: str, turns: float):
    clip = render_scene(one_toy(shape, "spin", turns), num_frames=3, fps=2).float()
    assert (clip[0] - clip[2]).abs().mean() < 0.1 < 1.0 < (clip[0] - clip[1]).abs().mean()


def test_lights_differ_and_evening_shadows_fall_to_the_left():
    day, evening, night = (render_scene(one_toy("ball", light=light), num_frames=1)[0].float() for light in FULL.lights)
    assert evening[0, :, 2].mean() < 0.75 * day[0, :, 2].mean() and night.mean() < 0.6 * day.mean()
    row = 64 // 2 + 14  # beside the foot
    assert day[row, 48].sum() < day[row, 15].sum() and evening[row, 48].sum() > evening[row, 15].sum()


def test_the_shadow_of_a_bouncing_toy_stays_on_the_floor():
    scene = one_toy("ball", "bounce", 0.25)
    rest, high = render_scene(scene)[[0, 2]].float()
    foot = slice(46, 48), slice(30, 44)
    assert high[foot].mean() < 0.9 * high[2:6, 2:6].mean()  # a shadow, and nothing in front of it
    assert (
        (high[foot].amax(dim=-1) - high[foot].amin(dim=-1)).max()
        < 12
        < (rest[foot].amax(-1) - rest[foot].amin(-1)).max()
    )


def test_a_pan_moves_floor_and_toys_together():
    scene = replace(sample_scene(5, "full", camera="pan right", count="one"), camera_extent=0.25)
    clip = render_scene(scene, num_frames=9)
    moved = (clip[8, :, :48].float() - clip[0, :, 16:].float()).abs()
    assert moved.mean() < 6.0  # the light does not move with the camera
    assert (clip[8].float() - clip[0].float()).abs().mean() > 10.0
