"""The picture signal: each degradation changes the value that is named after it."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.signals.picture import measure_frame, picture_area
from cogvideox.toybox.effects import camera, degradation


@pytest.fixture(scope="module")
def image():
    return camera.texture(3, (180, 320), roughness=1.4)[None]


def measure(clip):
    return measure_frame(np.ascontiguousarray(clip[0]), 24.0)


def test_blur_lowers_sharpness_and_resolution(image):
    before = measure(image)
    for degraded in (degradation.blur(image, 2.0), degradation.enlarge(image, 4.0)):
        after = measure(degraded)
        assert after["sharpness"] < before["sharpness"] / 5
        assert after["resolution"] < before["resolution"] / 5


def test_noise_is_measured(image):
    smooth = degradation.blur(image, 2.0)
    for sigma in (5.0, 15.0):
        noisy = np.repeat(degradation.noise(smooth, sigma, 0)[..., :1], 3, axis=-1)
        assert measure(noisy)["noise"] == pytest.approx(sigma, rel=0.25)


def test_compression_shows_as_blocks_also_after_a_crop(image):
    strengths = [measure(degradation.jpeg(image, quality))["blockiness"] for quality in (95, 30, 10, 5)]
    assert strengths == sorted(strengths)
    assert measure(image)["blockiness"] < 0.05
    assert strengths[2] > 0.5
    cropped = measure(degradation.jpeg(image, 10)[:, 3:, 5:])["blockiness"]
    assert cropped == pytest.approx(strengths[2], rel=0.2)


def test_exposure(image):
    assert measure(degradation.expose(image, 3.0))["overexposed"] > 0.3 > measure(image)["overexposed"]
    dark = measure(degradation.expose(image, 0.1))
    assert dark["underexposed"] > 0.05 > measure(image)["underexposed"]
    assert dark["borders"] < 0.1


@pytest.mark.parametrize("vertical", [True, False])
def test_borders_are_measured_and_left_out(image, vertical):
    bordered = degradation.add_borders(image, 0.125, vertical)
    measured = measure(bordered)
    assert measured["borders"] == pytest.approx(0.25, abs=0.02)
    top, bottom, left, right = picture_area(bordered[0], 24.0)
    assert (bottom - top, right - left) == ((136, 320) if vertical else (180, 240))
    assert measured["brightness"] == pytest.approx(measure(image)["brightness"], abs=0.03)


def test_a_black_frame_has_values(image):
    measured = measure(np.zeros_like(image))
    assert measured["underexposed"] == 1.0
    assert all(np.isfinite(value) for value in measured.values())


def test_gray_is_not_colorful(image):
    gray = np.repeat(image[..., :1], 3, axis=-1)
    assert measure(gray)["colorfulness"] < 1e-9 < measure(image)["colorfulness"]
