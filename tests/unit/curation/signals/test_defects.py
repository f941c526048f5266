"""The defects signal: each degradation changes the value that is named after it."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.signals.defects import Defects, measure_frame
from cogvideox.toybox.effects import camera, degradation


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Return a textured image with sharp rectangles."""
    frame = camera.texture(3, (180, 320), roughness=1.4)
    for index in range(6):
        x, y = 20 + 48 * index, 30 + 15 * index
        frame[y : y + 37, x : x + 29] = (40 * index, 255 - 40 * index, 90)
    return frame


def test_blur_makes_edges_wide(image):
    sharp = measure_frame(image)
    blurred = measure_frame(degradation.blur(image[None], 3.0)[0])
    assert blurred["edge_sharpness"] < 0.4 < 0.5 < sharp["edge_sharpness"]
    assert blurred["sharpest_edges"] < 0.6 < 0.9 < sharp["sharpest_edges"]
    assert blurred["fine_detail"] < 0.2 < 0.5 < sharp["fine_detail"]


def test_an_ideal_edge_and_a_ramp():
    """The step over 3 pixels of a ramp of 12 pixels is a sixth of its height, and at most a quarter of what is seen."""
    edge = np.zeros((60, 60, 3), np.uint8)
    edge[:, 30:] = edge[30:, :30] = 200
    assert measure_frame(edge)["edge_sharpness"] == 1.0
    ramp = np.repeat(np.clip((np.arange(60) - 24) / 12, 0, 1)[None], 60, 0)
    ramp = np.repeat((240 * np.maximum(ramp, ramp.T))[..., None], 3, -1).astype(np.uint8)
    assert 1 / 6 - 0.01 < measure_frame(ramp)["edge_sharpness"] < 1 / 4


def test_motion_blur_has_a_direction(image):
    import cv2

    rows = cv2.blur(image, (15, 1))
    assert measure_frame(rows)["directional_blur"] > measure_frame(image)["directional_blur"] + 0.1
    assert measure_frame(rows)["edge_sharpness"] < 0.4


def test_exposure(image):
    dark = measure_frame(degradation.expose(image[None], 0.1)[0])
    white = measure_frame(degradation.expose(image[None], 5.0)[0])
    assert dark["brightest"] < 0.15 and white["brightest"] == 1.0 and white["darkest"] > 0.3
    plain = measure_frame(np.full((64, 64, 3), 51, np.uint8))
    assert plain["darkest"] == plain["brightest"] == pytest.approx(0.2)


@pytest.mark.parametrize("block", [3, 5])
def test_enlarged_pixels_lie_on_a_grid(image, block):
    coarse = image[::block, ::block].repeat(block, 0).repeat(block, 1)
    assert measure_frame(coarse)["repeated_pixels"] == pytest.approx(1.0)
    assert measure_frame(image)["repeated_pixels"] < 0.3


def test_lines_of_two_fields(image):
    combed = image.copy()
    combed[1::2] = np.roll(image, 9, 1)[1::2]
    assert measure_frame(combed)["combing"] > 0.2 > -0.2 > measure_frame(image)["combing"]


def test_frames_without_edges_count_as_sharp():
    plain = measure_frame(np.full((5, 5, 3), 128, np.uint8))
    assert plain["edge_sharpness"] == plain["fine_detail"] == 1.0 and plain["repeated_pixels"] == 0.0
    assert {f"defects.{name}" for name in plain} == {column.name for column in Defects.columns}


def test_blur_removes_fine_detail(image):
    sharp, blurred = measure_frame(image), measure_frame(degradation.blur(image[None], 2.0)[0])
    assert blurred["smooth_blocks"] > sharp["smooth_blocks"] + 0.2
    assert blurred["fine_to_medium"] < sharp["fine_to_medium"] - 0.5
    assert blurred["edge_detail"] < 0.5 * sharp["edge_detail"]


def test_tones_of_two_halves():
    frame = np.full((64, 64, 3), 51, np.uint8)
    assert measure_frame(frame)["tones"] == 0.0 and measure_frame(frame)["main_tone"] == 1.0
    frame[:, 32:] = 204
    values = measure_frame(frame)
    assert values["tones"] == pytest.approx(1.0) and values["main_tone"] == 0.5
    assert values["lower_quartile"] == pytest.approx(0.2)
