"""The screen signal: screens have lines, flat areas and few colors; filmed screens have moire."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.signals.screen import flat_share, line_share, measure_frame
from cogvideox.toybox.effects import camera, degradation, scenes

SIZE = (240, 426)


@pytest.mark.parametrize("seed", range(3))
def test_screens_differ_from_pictures(seed):
    picture = measure_frame(camera.texture(seed, SIZE))
    for draw in (scenes.slides, scenes.screen_recording):
        screen = measure_frame(draw(1, SIZE, seed)[0])
        assert screen["flat_share"] > 0.5 > 0.1 > picture["flat_share"]
        assert screen["color_share"] > 0.9 > 0.3 > picture["color_share"]
    assert measure_frame(scenes.screen_recording(1, SIZE, seed)[0])["line_share"] > 0.3 > 0.05 > picture["line_share"]


@pytest.mark.parametrize(("period", "angle", "strength"), [(5.0, 0.4, 0.3), (9.0, 0.8, 0.2), (14.0, 1.2, 0.15)])
def test_moire_is_found_on_pictures_and_slides_and_not_made_by_compression(period, angle, strength):
    for clean in (camera.texture(4, SIZE)[None], scenes.slides(1, SIZE, 4)):
        before = measure_frame(clean[0])["moire"]
        after = measure_frame(degradation.moire(clean, period, angle, strength)[0])["moire"]
        assert after > 2.0 > 1.5 > before
        assert measure_frame(degradation.jpeg(clean, 20)[0])["moire"] < 1.8


def test_lines_and_flat_blocks_are_counted():
    gray = np.full((160, 160), 40, np.uint8)
    assert flat_share(gray) == 1.0
    assert line_share(gray) == 0.0
    gray[:, 80:] = 200
    assert line_share(gray) > 0.95
    noisy = np.random.default_rng(0).integers(0, 255, (160, 160)).astype(np.uint8)
    assert flat_share(noisy) == 0.0
    assert line_share(noisy) < 0.05


def test_small_frames_have_values():
    assert all(np.isfinite(value) for value in measure_frame(np.zeros((12, 9, 3), np.uint8)).values())
