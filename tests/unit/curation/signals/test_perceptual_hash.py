import numpy as np
import pytest

from cogvideox.curation.signals.perceptual_hash import PerceptualHash, hash_frame


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] / height
    a, b, c = np.random.default_rng(seed).uniform(1, 8, 3)
    gray = 127 + 60 * np.sin(a * x + c) + 60 * np.cos(b * y + a * x)
    return np.repeat(gray[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def test_hash_survives_scaling_and_brightness_but_distinguishes_pictures():
    original = hash_frame(picture(0))
    assert (original ^ hash_frame(picture(0)[::2, ::2])).bit_count() <= 6
    assert (original ^ hash_frame((picture(0) * 0.9).astype(np.uint8))).bit_count() <= 4
    assert min((original ^ hash_frame(picture(seed))).bit_count() for seed in range(1, 6)) > 12


def test_declared_sampling_gives_the_frames_of_equal_intervals():
    (sampling,) = PerceptualHash(num_frames=4).samplings
    assert sampling.times(2.0, 10.0) == [3.0, 5.0, 7.0, 9.0]


@pytest.mark.parametrize("color", [(0, 0, 0), (1, 1, 1), (37, 37, 37), (90, 140, 201), (255, 255, 255)])
@pytest.mark.parametrize("size", [(48, 64), (45, 61)])
def test_flat_frames_have_hash_0(color, size):
    frame = np.full((*size, 3), color, dtype=np.uint8)
    frame[7, 9] ^= 1  # noise
    assert hash_frame(frame) == 0
