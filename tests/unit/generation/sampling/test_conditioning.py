"""Videos of images and clips on tiny random models: what is kept, what comes out, and that it can be made again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideox import Video, config
from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.errors import UserError
from cogvideox.generation.request.builder import reopen
from cogvideox.generation.request.request import Replay
from cogvideox.generation.sampling import denoisers
from cogvideox.generation.sampling.conditioning import image_scale
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*unlike the training")

PROMPT = tiny.CAPTIONS[0]


def differ(one, other):
    return not np.array_equal(one, other)


@pytest.mark.parametrize("variant", tiny.IMAGE_TRANSFORMERS)
def test_the_image_makes_the_video(pipes, clip, variant):
    first = pipes[variant].generate(PROMPT, image=clip[0], seed=0).frames
    assert first.shape == (9, 32, 48, 3)
    assert differ(pipes[variant].generate(PROMPT, image=clip[9], seed=0).frames, first)


def test_the_image_latents_of_1_5_have_two_scales(pipes, clip):
    pipe = pipes["1.5-5b-i2v"]
    values = {"image": clip[0], "seed": 0, "output": "float"}
    sat = pipe.generate(PROMPT, **values).frames
    assert differ(pipe.generate(PROMPT, **values, image_latent_scale="diffusers").frames, sat)
    assert (image_scale(pipe.bundle.vae, "sat"), image_scale(pipe.bundle.vae, "diffusers")) == (1.0, 1 / 0.7)
    assert image_scale(pipes["5b-i2v"].bundle.vae, "sat") == image_scale(pipes["5b-i2v"].bundle.vae, "diffusers") == 0.7


@pytest.mark.parametrize("variant", ["2b", "1.5-5b", "5b-i2v"])
def test_the_clip_makes_the_video(pipes, clip, variant):
    """Of an image model the clip's first frame is the image, unless another is given."""
    values = {"video": clip, "seed": 0, "strength": 0.5}
    frames = pipes[variant].generate(PROMPT, **values).frames
    assert frames.shape == (9, 32, 48, 3)
    assert differ(pipes[variant].generate(PROMPT, **{**values, "video": clip[::-1]}).frames, frames)
    if variant in tiny.IMAGE_TRANSFORMERS:
        assert not differ(pipes[variant].generate(PROMPT, **values, image=clip[0]).frames, frames)
        assert differ(pipes[variant].generate(PROMPT, **values, image=clip[9]).frames, frames)


def test_strength_is_the_share_of_the_steps(pipes, clip):
    for strength, num_steps in ((1.0, 5), (0.99, 4), (0.2, 1)):
        seen = []
        pipes["5b"].generate(PROMPT, video=clip, strength=strength, num_inference_steps=5, on_step=seen.append)
        assert [p.done for p in seen if p.stage == "denoise"] == list(range(1, num_steps + 1))


def test_without_a_number_the_video_is_as_long_as_the_clip_but_no_longer_than_usual(pipes, clip):
    for num_given, num_made in ((17, 9), (9, 9), (8, 5), (3, 1)):
        assert len(pipes["2b"].generate(PROMPT, video=clip[:num_given]).frames) == num_made
    assert len(pipes["2b"].generate(PROMPT, video=clip, num_frames=17).frames) == 17


def test_every_way_of_giving_the_same_pixels(pipes, clip, tmp_path):
    pipe = pipes["5b-i2v"]
    picture = Image.fromarray(clip[0])
    picture.save(tmp_path / "x.png")
    same = [clip[0], (clip[0] / 255).astype(np.float32), picture, tmp_path / "x.png", str(tmp_path / "x.png")]
    first, *others = (pipe.generate(PROMPT, image=image, seed=0).frames for image in same)
    assert all(not differ(other, first) for other in others)

    pipe = pipes["5b"]
    first = pipe.generate(PROMPT, video=clip, seed=0).frames
    assert not differ(pipe.generate(PROMPT, video=Video(clip, 8.0), seed=0).frames, first)
    # At twice the rate every second frame is as far on.
    assert not differ(pipe.generate(PROMPT, video=Video(clip.repeat(2, axis=0), 16.0), seed=0).frames, first)


@pytest.mark.parametrize("variant", ["2b", "1.5-5b", "1.5-5b-i2v"])
def test_a_clip_is_continued(pipes, clip, variant):
    """Its frames stay what they are, in the size of the video; after them come as many as are asked for."""
    given = Video(np.resize(clip, (10, 32, 48, 3)), 8.0)
    video = pipes[variant].generate(PROMPT, video=given, extend=True, num_frames=29, seed=0)
    assert video.frames.shape == (29, 32, 48, 3)
    assert not differ(video.frames[:10], given.frames)
    exact = pipes[variant].generate(PROMPT, video=given, extend=True, num_frames=29, seed=0, output="float")
    assert np.abs(exact.frames * 255 - video.frames).max() < 1
    assert len(pipes[variant].generate(PROMPT, video=given, extend=True).frames) > 10


def test_a_picture_is_continued_as_a_clip_of_one_frame(pipes, clip, tmp_path):
    Image.fromarray(clip[0]).save(tmp_path / "x.png")
    frames = pipes["5b"].generate(PROMPT, video=tmp_path / "x.png", extend=True, num_frames=9, fit="stretch").frames
    assert frames.shape == (9, 32, 48, 3)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_known_frames_stay_and_are_shown_to_the_network_under_its_noise(pipes, sampler):
    schedule, generator = pipes["5b"].bundle.schedule, torch.Generator().manual_seed(0)
    known, noise = torch.randn(1, 4, 2, 3, 3), initial_noise((1, 4, 5, 3, 3), generator)
    shown = []

    def network(x, t, i):
        shown.append((x[:, :, :2], schedule.alphas_cumprod[t].item()))
        return torch.zeros_like(x)

    held = denoisers.holding(network, known, schedule)
    end = SAMPLERS[sampler](held, noise, [999, 600, 300, 50], schedule, generator=generator)
    torch.testing.assert_close(end[:, :, :2], known, atol=1e-4, rtol=0)
    if sampler == "ddim":  # which adds no noise of its own
        for x, abar in shown:
            torch.testing.assert_close(x, abar**0.5 * known + (1 - abar) ** 0.5 * noise[:, :, :2], atol=1e-4, rtol=0)


def test_windows_that_agree_are_the_whole():
    """A velocity that each frame has by itself is the same in windows; and no frame is left out."""
    x = torch.randn(1, 2, 10, 3, 3)
    windows = [range(4), range(2, 6), range(5, 9), range(6, 10)]
    blended = denoisers.over_windows([lambda x, t, i: torch.sin(x) + t] * 4, windows)
    torch.testing.assert_close(blended(x, 3, 0), torch.sin(x) + 3)
    assert denoisers.over_windows([torch.sin], [range(10)]) is torch.sin


@pytest.mark.parametrize(("patch_t", "second"), [(1, [0, 0, 1 / 2, 2 / 3, 1]), (2, [0, 0, 0, 2 / 3, 1])])
def test_a_window_begins_with_frames_that_only_lead_in(patch_t, second):
    """How much the second of two windows has to say of each frame."""
    answers = iter((0.0, 1.0))
    windows = [range(4), range(1, 5)]
    blended = denoisers.over_windows([lambda x, t, i: torch.full_like(x, next(answers))] * 2, windows, patch_t)
    shares = blended(torch.zeros(1, 1, 5, 1, 1), 0, 0).flatten().tolist()
    assert shares == pytest.approx(second)


@pytest.mark.parametrize("variant", ["2b", "5b", "1.5-5b", "5b-i2v", "1.5-5b-i2v"])
def test_a_long_video_in_windows(pipes, clip, variant):
    values = {"image": clip[0]} if variant in tiny.IMAGE_TRANSFORMERS else {}
    seen = []
    pipe = pipes[variant]
    video = pipe.generate(PROMPT, **values, num_frames=41, window=9, num_inference_steps=1, on_step=seen.append)
    assert len(video.frames) == 41
    totals = {p.total for p in seen if p.stage == "denoise"}
    assert len(totals) == 1 and [p.done for p in seen if p.stage == "denoise"][-1] == totals.pop()
    # What fits into one window is made at once, as without.
    short, plain = (pipe.generate(PROMPT, **values, num_frames=9, seed=0, **more) for more in ({"window": 9}, {}))
    assert not differ(short.frames, plain.frames) and short.metadata == plain.metadata


def test_a_clip_is_made_anew_in_windows(pipes, clip):
    frames = pipes["5b"].generate(PROMPT, video=clip, num_frames=17, window=9, overlap=4).frames
    assert frames.shape == (17, 32, 48, 3)


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_clip_is_inverted(pipes, clip, variant, guidance_scale):
    seen = []
    values = {"video": clip, "invert": True, "seed": 0, "num_inference_steps": 3, "guidance_scale": guidance_scale}
    video = pipes[variant].generate(PROMPT, **values, on_step=seen.append)
    assert video.frames.shape == (9, 32, 48, 3)
    assert [p.done for p in seen if p.stage == "invert"] == [p.done for p in seen if p.stage == "denoise"] == [1, 2, 3]
    assert differ(pipes[variant].generate(PROMPT, **{**values, "video": clip[::-1]}).frames, video.frames)


def test_what_is_in_memory_can_be_made_again_only_with_it(pipes, clip):
    pipe = pipes["5b"]
    video = pipe.generate(PROMPT, video=clip, seed=0, window=9)
    replay = config.from_dict(Replay, json.loads(json.dumps(video.metadata)))
    assert replay.strength == 0.8 and replay.video is not None and replay.video.path is None
    with pytest.raises(UserError, match="given in memory"):
        pipe.run(replay)


def test_metadata_with_files_make_the_same_frames(pipes, clip, tmp_path):
    Image.fromarray(clip[0]).save(tmp_path / "x.png")
    Video(clip, 8.0).save(tmp_path / "x.mp4")
    for variant, values in (
        ("5b-i2v", {"image": tmp_path / "x.png", "fit": "contain"}),
        ("5b", {"video": tmp_path / "x.mp4", "strength": 0.5, "eta": 0.5, "guidance_interval": (0.2, 0.9)}),
        ("2b", {"video": tmp_path / "x.mp4", "extend": True}),
    ):
        video = pipes[variant].generate(PROMPT, seed=0, **values)
        replay = config.from_dict(Replay, json.loads(json.dumps(video.metadata)))
        assert not differ(pipes[variant].run(replay).frames, video.frames)
    (tmp_path / "x.mp4").write_bytes(b"else")
    with pytest.raises(UserError, match="has changed since"):
        reopen(replace(replay, num_frames=9))
