"""Image- and video-conditioned generation on tiny random models: preserved frames, new frames, reproducibility."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cogvideox import Video, config
from cogvideox.errors import UserError
from cogvideox.generation.request.builder import reopen_inputs
from cogvideox.generation.request.sidecar import Sidecar
from cogvideox.generation.sampling.conditioning import image_scale
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on")

PROMPT = tiny.CAPTIONS[0]


def differ(a, b):
    return not np.array_equal(a, b)


@pytest.mark.parametrize("variant", tiny.IMAGE_TRANSFORMERS)
def test_the_image_determines_the_video(pipes, clip, variant):
    first = pipes[variant].generate(PROMPT, image=clip[0], seed=0).frames
    assert first.shape == (9, 32, 48, 3)
    assert differ(pipes[variant].generate(PROMPT, image=clip[9], seed=0).frames, first)


def test_the_two_scales_of_1_5_image_latents(pipes, clip):
    pipe = pipes["1.5-5b-i2v"]
    values = {"image": clip[0], "seed": 0, "output": "float"}
    sat = pipe.generate(PROMPT, **values).frames
    assert differ(pipe.generate(PROMPT, **values, image_latent_scale="diffusers").frames, sat)
    assert (image_scale(pipe.model.vae, "sat"), image_scale(pipe.model.vae, "diffusers")) == (1.0, 1 / 0.7)
    assert image_scale(pipes["5b-i2v"].model.vae, "sat") == image_scale(pipes["5b-i2v"].model.vae, "diffusers") == 0.7


@pytest.mark.parametrize("variant", ["2b", "1.5-5b", "5b-i2v"])
def test_the_input_video_determines_the_video(pipes, clip, variant):
    """An image-to-video model uses the first frame as its image if there is no image."""
    values = {"video": clip, "seed": 0, "strength": 0.5}
    frames = pipes[variant].generate(PROMPT, **values).frames
    assert frames.shape == (9, 32, 48, 3)
    assert differ(pipes[variant].generate(PROMPT, **{**values, "video": clip[::-1]}).frames, frames)
    if variant in tiny.IMAGE_TRANSFORMERS:
        assert not differ(pipes[variant].generate(PROMPT, **values, image=clip[0]).frames, frames)
        assert differ(pipes[variant].generate(PROMPT, **values, image=clip[9]).frames, frames)


def test_strength_is_the_fraction_of_steps_that_are_run(pipes, clip):
    for strength, num_steps in ((1.0, 5), (0.99, 4), (0.2, 1)):
        reports = []
        pipes["5b"].generate(PROMPT, video=clip, strength=strength, num_inference_steps=5, on_step=reports.append)
        assert [p.done for p in reports if p.stage == "denoise"] == list(range(1, num_steps + 1))


def test_by_default_the_video_is_as_long_as_the_input_up_to_the_models_length(pipes, clip):
    for num_input_frames, expected in ((17, 9), (9, 9), (8, 5), (3, 1)):
        assert len(pipes["2b"].generate(PROMPT, video=clip[:num_input_frames]).frames) == expected
    assert len(pipes["2b"].generate(PROMPT, video=clip, num_frames=17).frames) == 17


def test_arrays_images_and_files_are_equivalent(pipes, clip, tmp_path):
    pipe = pipes["5b-i2v"]
    image = Image.fromarray(clip[0])
    image.save(tmp_path / "x.png")
    images = [clip[0], (clip[0] / 255).astype(np.float32), image, tmp_path / "x.png", str(tmp_path / "x.png")]
    first, *others = (pipe.generate(PROMPT, image=image, seed=0).frames for image in images)
    assert all(not differ(other, first) for other in others)

    pipe = pipes["5b"]
    first = pipe.generate(PROMPT, video=clip, seed=0).frames
    assert not differ(pipe.generate(PROMPT, video=Video(clip, 8.0), seed=0).frames, first)
    # At twice the frame rate, every second frame is used.
    assert not differ(pipe.generate(PROMPT, video=Video(clip.repeat(2, axis=0), 16.0), seed=0).frames, first)


@pytest.mark.parametrize("variant", ["2b", "1.5-5b", "1.5-5b-i2v"])
def test_extending_a_video(pipes, clip, variant):
    """The frames of the input are unchanged, and the total number of frames is exact."""
    source = Video(np.resize(clip, (10, 32, 48, 3)), 8.0)
    video = pipes[variant].generate(PROMPT, video=source, extend=True, num_frames=29, seed=0)
    assert video.frames.shape == (29, 32, 48, 3)
    assert not differ(video.frames[:10], source.frames)
    exact = pipes[variant].generate(PROMPT, video=source, extend=True, num_frames=29, seed=0, output="float")
    assert np.abs(exact.frames * 255 - video.frames).max() < 1
    assert len(pipes[variant].generate(PROMPT, video=source, extend=True).frames) > 10


def test_an_image_is_extended_as_a_video_of_one_frame(pipes, clip, tmp_path):
    Image.fromarray(clip[0]).save(tmp_path / "x.png")
    frames = pipes["5b"].generate(PROMPT, video=tmp_path / "x.png", extend=True, num_frames=9, fit="stretch").frames
    assert frames.shape == (9, 32, 48, 3)


@pytest.mark.parametrize("variant", ["2b", "5b", "1.5-5b", "5b-i2v", "1.5-5b-i2v"])
def test_windows_generate_long_videos(pipes, clip, variant):
    values = {"image": clip[0]} if variant in tiny.IMAGE_TRANSFORMERS else {}
    reports = []
    pipe = pipes[variant]
    video = pipe.generate(PROMPT, **values, num_frames=41, window=9, num_inference_steps=1, on_step=reports.append)
    assert len(video.frames) == 41
    totals = {p.total for p in reports if p.stage == "denoise"}
    assert len(totals) == 1 and [p.done for p in reports if p.stage == "denoise"][-1] == totals.pop()
    # If the video fits in one window, `window` has no effect.
    short, plain = (pipe.generate(PROMPT, **values, num_frames=9, seed=0, **options) for options in ({"window": 9}, {}))
    assert not differ(short.frames, plain.frames) and short.metadata == plain.metadata


def test_windows_can_regenerate_a_video(pipes, clip):
    frames = pipes["5b"].generate(PROMPT, video=clip, num_frames=17, window=9, overlap=4).frames
    assert frames.shape == (17, 32, 48, 3)


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_inversion_depends_on_the_input_video(pipes, clip, variant, guidance_scale):
    reports = []
    values = {"video": clip, "invert": True, "seed": 0, "num_inference_steps": 3, "guidance_scale": guidance_scale}
    video = pipes[variant].generate(PROMPT, **values, on_step=reports.append)
    assert video.frames.shape == (9, 32, 48, 3)
    assert (
        [p.done for p in reports if p.stage == "invert"]
        == [p.done for p in reports if p.stage == "denoise"]
        == [1, 2, 3]
    )
    assert differ(pipes[variant].generate(PROMPT, **{**values, "video": clip[::-1]}).frames, video.frames)


def test_a_sidecar_with_inputs_in_memory_cannot_be_repeated(pipes, clip):
    pipe = pipes["5b"]
    video = pipe.generate(PROMPT, video=clip, seed=0, window=9)
    sidecar = config.from_dict(Sidecar, json.loads(json.dumps(video.metadata)))
    assert sidecar.strength == 0.8 and sidecar.video is not None and sidecar.video.path is None
    with pytest.raises(UserError, match="passed in memory"):
        pipe.run(sidecar)


def test_metadata_with_input_files_reproduce_the_frames(pipes, clip, tmp_path):
    Image.fromarray(clip[0]).save(tmp_path / "x.png")
    Video(clip, 8.0).save(tmp_path / "x.mp4")
    for variant, values in (
        ("5b-i2v", {"image": tmp_path / "x.png", "fit": "contain"}),
        ("5b", {"video": tmp_path / "x.mp4", "strength": 0.5, "eta": 0.5, "guidance_interval": (0.2, 0.9)}),
        ("2b", {"video": tmp_path / "x.mp4", "extend": True}),
    ):
        video = pipes[variant].generate(PROMPT, seed=0, **values)
        sidecar = config.from_dict(Sidecar, json.loads(json.dumps(video.metadata)))
        assert not differ(pipes[variant].run(sidecar).frames, video.frames)
    (tmp_path / "x.mp4").write_bytes(b"else")
    with pytest.raises(UserError, match="has changed since"):
        reopen_inputs(replace(sidecar, num_frames=9))
