import torch

from cogvideox.toybox.render.renderer import render_scene, render_scenes
from cogvideox.toybox.scenes.grammar import CORE
from cogvideox.toybox.scenes.sampler import sample_scene


def test_a_render_has_the_requested_size_and_does_not_depend_on_its_batch():
    scenes = [sample_scene(seed) for seed in range(12)]
    batch = render_scenes(scenes)
    assert batch.shape == (12, 9, 64, 64, 3) and batch.dtype == torch.uint8
    for index, scene in enumerate(scenes):
        assert torch.equal(batch[index], render_scene(scene))
    assert render_scene(scenes[0], num_frames=5, height=48, width=80, fps=4).shape == (5, 48, 80, 3)


def test_renders_agree_across_sizes_and_frame_rates():
    for seed in range(6):
        scene = sample_scene(seed)
        small, large = (
            render_scene(scene).float(),
            render_scene(scene, num_frames=17, height=128, width=128, fps=16).float(),
        )
        shrunk = large[::2].unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean(dim=(2, 4))
        assert (small - shrunk).abs().mean() < 1.0
        wide = render_scene(scene, height=64, width=96).float()
        assert (wide[:, :, 16:80] - small).abs().max() <= 1.0


def test_toys_rest_after_the_end_of_their_motion():
    clip = render_scene(sample_scene(3, motion="left"), num_frames=17)
    assert not torch.equal(clip[0], clip[8])
    assert torch.equal(clip[8], clip[16])


def test_toys_are_never_cut_off_at_the_frame_edge():
    for shape in CORE.shapes:
        for background in CORE.backgrounds:
            clip = render_scene(
                sample_scene(11, shape=shape, size="large", background=background, color="green", motion="up")
            )
            left = clip[:, :, 0].float()
            assert left.std(dim=(0, 1)).max() < 8.0  # only slow changes of light and shadow


def test_renders_match_training_data_of_shipped_model():
    clips = render_scenes([sample_scene(seed) for seed in range(6)], num_frames=2).float()
    means = [
        (142.1, 131.7, 122.2),
        (207.5, 212.8, 228.9),
        (27.7, 24.2, 23.0),
        (133.4, 132.3, 140.1),
        (113.9, 74.7, 67.5),
        (24.5, 21.6, 28.6),
    ]
    assert torch.allclose(clips.mean(dim=(1, 2, 3)), torch.tensor(means), atol=0.1)
    spreads = torch.tensor([30.9, 56.6, 24.2, 14.6, 33.6, 21.9])
    assert torch.allclose(clips.std(dim=(1, 2, 3, 4)), spreads, atol=0.1)
