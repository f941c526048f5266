"""Forty sizes and lengths: each is either generated exactly or rejected with the nearest valid values."""

import re

import numpy as np
import pytest

from cogvideox.errors import UserError
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on")

VALID = [
    # frames, height, width
    *[(n, 32, 48) for n in (1, 5, 9, 13, 17, 21, 29, 33)],
    *[(5, h, w) for h, w in ((16, 16), (16, 96), (96, 16), (48, 32), (64, 64), (80, 48), (32, 112), (128, 32))],
    (9, 16, 64),
    (13, 48, 16),
    (17, 16, 16),
    (25, 16, 32),
]
INVALID = [
    ((10, 32, 48), "num_frames 9 13"),
    ((0, 32, 48), "num_frames 1"),
    ((2, 32, 48), "num_frames 1 5"),
    ((48, 32, 48), "num_frames 45 49"),
    ((-4, 32, 48), "num_frames 1"),
    ((9, 40, 48), "height 32 48"),
    ((9, 32, 50), "width 48 64"),
    ((9, 8, 48), "height 16"),
    ((9, 32, 0), "width 16"),
    ((9, 33, 47), "height 32 48 width 32 48"),
    ((9, -16, 48), "height 16"),
    ((9, 1, 1), "height 16 width 16"),
    ((9, 100, 100), "height 96 112 width 96 112"),
]
# For the model whose learned positions cover 17 frames of 32x48.
LEARNED = [
    ((9, 48, 32), "height 32 width 48"),
    ((9, 32, 64), "height 32 width 48"),
    ((21, 32, 48), "num_frames 17"),
    ((97, 32, 48), "num_frames 17"),
    ((10, 32, 48), "num_frames 9 13"),
    ((17, 40, 48), "height 32 48"),
]


def sizes(num_frames, height, width):
    return {"num_frames": num_frames, "height": height, "width": width, "num_inference_steps": 1}


def test_forty_sizes_are_covered():
    assert len(VALID) + len(INVALID) + len(LEARNED) + 1 == 40


@pytest.mark.parametrize("size", VALID, ids=str)
def test_valid_sizes_are_generated_exactly(pipes, clip, size):
    """The variants alternate, so that each is tested with many sizes."""
    variants = ["2b", "5b", "1.5-5b", "1.5-5b-i2v"]
    variant = variants[VALID.index(size) % len(variants)]
    image = {"image": clip[0]} if variant in tiny.IMAGE_TRANSFORMERS else {}
    frames = pipes[variant].generate(tiny.CAPTIONS[0], **sizes(*size), **image).frames
    assert frames.shape == (*size, 3)


@pytest.mark.parametrize("num_frames", [1, 5, 13, 17])
def test_learned_positions_allow_shorter_clips(pipes, clip, num_frames):
    frames = pipes["5b-i2v"].generate(tiny.CAPTIONS[0], image=clip[0], **sizes(num_frames, 32, 48)).frames
    assert frames.shape == (num_frames, 32, 48, 3)


@pytest.mark.parametrize(("size", "nearest"), INVALID + LEARNED, ids=str)
def test_invalid_sizes_are_rejected_with_the_nearest_valid_ones(pipes, size, nearest):
    """The message has each name with its nearest valid values."""
    learned = (size, nearest) in LEARNED
    image = {"image": np.zeros((8, 8, 3), np.uint8)} if learned else {}
    with pytest.raises(UserError) as caught:
        pipes["5b-i2v" if learned else "5b"].generate(tiny.CAPTIONS[0], **sizes(*size), **image)
    suggestion = str(caught.value).partition("nearest")[2].partition(", and window")[0]
    assert re.findall(r"num_frames|height|width|\d+", suggestion) in (nearest.split(), nearest.split()[1:])
    assert nearest.split()[0] in str(caught.value)


def test_a_model_trained_on_many_sizes_follows_the_shape_of_the_image(pipes):
    """The default size stays within the training range, here 32 to 64 pixels."""
    for shape, expected in (((100, 100, 3), (32, 32)), ((100, 150, 3), (32, 48)), ((400, 100, 3), (64, 32))):
        image = np.zeros(shape, np.uint8)
        video = pipes["1.5-5b-i2v"].generate(tiny.CAPTIONS[0], image=image, num_frames=1)
        assert video.frames.shape[1:3] == expected
        video = pipes["1.5-5b-i2v"].generate(tiny.CAPTIONS[0], image=image, num_frames=1, height=48)
        assert video.frames.shape[1:3] == (48, 48)
