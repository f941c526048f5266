"""Long videos of the shipped model have no seams between windows; tiny models accept real clips and photographs."""

import os
from pathlib import Path

import numpy as np
import pytest

from cogvideox import CogVideoX, Video
from tests import tiny

CLIPS = os.environ.get("COGVIDEOX_REAL_CLIPS")
"""A folder outside the repository with real videos and photographs."""

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on")


def real(name: str) -> Path:
    """Return a file of `CLIPS`, or skip the test."""
    if CLIPS is None or not (file := Path(CLIPS, name)).is_file():
        pytest.skip(f"{name} is not available: set COGVIDEOX_REAL_CLIPS to a folder that has it")
    return file


def jumps(frames: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of consecutive frames, divided by its median over the video."""
    differences = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    return differences / np.median(differences)


@pytest.fixture(scope="module")
def toybox() -> CogVideoX:
    return CogVideoX.from_pretrained("toybox")


def test_no_seams_between_windows(toybox):
    """Between independent clips, frames differ by several times the median; between overlapping windows they do not."""
    prompt, values = toybox.settings.examples[0], {"num_inference_steps": 10}
    video = toybox.generate(prompt, num_frames=49, window=9, seed=0, **values).frames
    assert jumps(video)[8::4].mean() <= 1.5  # a window ends after every fourth frame
    separate = toybox.generate(prompt, seed=0, num_videos=4, **values)
    assert jumps(np.concatenate([clip.frames for clip in separate]))[8::9].mean() > 2


def test_no_seam_where_a_clip_is_extended(toybox):
    """Averaged over seeds, because single videos of such a small model have jumps anywhere."""
    prompt, seams = toybox.settings.examples[0], []
    for seed in range(3):
        clip = toybox.generate(prompt, seed=seed)
        video = toybox.generate(prompt, video=clip, extend=True, num_frames=17, seed=seed + 50)
        assert np.array_equal(video.frames[:9], clip.frames)
        seams.append(jumps(video.frames)[8])
    assert np.mean(seams) <= 1.5


@pytest.mark.parametrize("name", ["horse.mp4", "kitten.mp4", "gallery-1.mp4", "gallery-2.mp4"])
def test_real_clips_as_input(pipes, name):
    source = Video.load(real(name), max_frames=9)
    video = pipes["5b"].generate(tiny.CAPTIONS[0], video=real(name), strength=0.5, seed=0)
    assert video.frames.shape == (9, 32, 48, 3)
    assert not np.array_equal(
        pipes["5b"].generate(tiny.CAPTIONS[0], video=source.frames[::-1], strength=0.5, seed=0).frames, video.frames
    )


@pytest.mark.parametrize("name", ["beach.png", "street.png"])
@pytest.mark.parametrize("variant", tiny.IMAGE_TRANSFORMERS)
def test_real_photographs_as_input(pipes, variant, name):
    video = pipes[variant].generate(tiny.CAPTIONS[0], image=real(name), num_frames=5, seed=0)
    assert video.frames.shape == (5, 32, 48, 3)
