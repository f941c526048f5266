"""The motion signal against renders whose flow is known exactly."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.signals.base import SampledFrames
from cogvideox.curation.signals.motion import Motion, split_camera_motion
from cogvideox.toybox.effects import camera, degradation
from cogvideox.video.flow import optical_flow

SIZE, FRAMES, FPS = (96, 160), 16, 8.0
DIAGONAL = np.hypot(*SIZE)


@pytest.fixture(scope="module")
def canvas():
    return camera.texture(1, (500, 800))


def measure(frames, fps=FPS):
    return Motion().measure(SampledFrames(frames, np.arange(len(frames)) / fps, len(frames) / fps))


def add_object(frames, speed):
    frames = frames.copy()
    toy = camera.texture(9, (30, 30))
    for index, frame in enumerate(frames):
        left = 10 + round(speed * index)
        frame[30:60, left : left + 30] = toy
    return frames


def still(canvas):
    return np.repeat(camera.film(canvas, camera.pan(1, (0.0, 0.0)), SIZE), FRAMES, axis=0)


@pytest.mark.parametrize("velocity", [(1.0, 0.5), (-4.0, 0.0), (0.0, 6.0), (8.0, -3.0)])
def test_direction_and_magnitude_of_a_pan(canvas, velocity):
    frames = camera.film(canvas, camera.pan(FRAMES, velocity), SIZE)
    flow = np.median(optical_flow(frames), axis=(0, 1, 2))
    assert flow == pytest.approx([-velocity[0], -velocity[1]], abs=0.15)
    truth = np.hypot(*velocity) * FPS / DIAGONAL
    measured = measure(frames)
    assert measured["motion.flow_mean"] == pytest.approx(truth, rel=0.05)
    assert measured["motion.camera"] == pytest.approx(truth, rel=0.05)
    assert measured["motion.flow_per_second"] == pytest.approx([truth, truth], rel=0.05)


def test_zoom_is_camera_motion(canvas):
    path = camera.zoom(FRAMES, 0.02)
    measured = measure(camera.film(canvas, path, SIZE))
    truth = np.linalg.norm(camera.flow_of(path, SIZE), axis=-1).mean() * FPS / DIAGONAL
    assert measured["motion.flow_mean"] == pytest.approx(truth, rel=0.1)
    assert measured["motion.camera"] == pytest.approx(truth, rel=0.15)
    assert measured["motion.object"] < 0.2 * truth


def test_camera_shake_and_object_motion_are_told_apart(canvas):
    pan, shake = camera.pan(FRAMES, (3.0, 1.0)), camera.shake(FRAMES, 2.0, 0, fps=FPS, frequency=2.0)
    clips = {
        "camera": camera.film(canvas, pan, SIZE),
        "shake": camera.film(canvas, shake, SIZE),
        "object": add_object(still(canvas), 4),
    }
    for part, frames in clips.items():
        measured = {name: measure(frames)[f"motion.{name}"] for name in clips}
        assert max(measured, key=lambda name: measured[name]) == part
        assert all(value < measured[part] / 4 for name, value in measured.items() if name != part), measured
    both = measure(add_object(camera.film(canvas, pan + shake, SIZE), 4))
    assert all(both[f"motion.{part}"] > 0.05 for part in clips)


def test_an_object_over_a_plain_floor_is_not_a_moving_camera():
    measured = measure(add_object(np.full((FRAMES, *SIZE, 3), 200, np.uint8), 4))
    assert measured["motion.camera"] < 0.005
    assert measured["motion.object"] == pytest.approx(4 * FPS / DIAGONAL, rel=0.25)


def test_noise_is_hardly_motion(canvas):
    measured = measure(degradation.noise(still(canvas), 10.0, 0))
    assert measured["motion.flow_mean"] < 0.01
    assert measure(still(canvas))["motion.flow_top5"] < 1e-6


def test_scores_do_not_depend_on_size_and_frame_rate(canvas):
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(8):
        velocity = (float(rng.uniform(-5, 5)), float(rng.uniform(-5, 5)))
        frames = add_object(camera.film(canvas, camera.pan(FRAMES, velocity), SIZE), rng.uniform(0, 6))
        variants = ((frames, FPS), (frames[:, ::2, ::2], FPS), (frames[::2], FPS / 2))
        scores.append([measure(clip, fps)["motion.flow_mean"] for clip, fps in variants])
    full, half_size, half_rate = np.transpose(scores)
    assert np.corrcoef(full, half_size)[0, 1] > 0.99
    assert np.corrcoef(full, half_rate)[0, 1] > 0.99
    assert half_size == pytest.approx(full, rel=0.15)
    assert half_rate == pytest.approx(full, rel=0.15)


def test_an_image_has_no_motion(canvas):
    assert set(measure(still(canvas)[:1]).values()) == {None}


def test_constant_velocity_is_steady_and_alternating_velocity_is_shake():
    constant = np.ones((16, 9, 2))
    assert split_camera_motion(constant, 8.0) == pytest.approx((np.sqrt(2), 0.0))
    alternating = constant * np.array([1.0, -1.0] * 8)[:, None, None]
    steady, shake = split_camera_motion(alternating, 8.0)
    assert steady < 0.2
    assert shake == pytest.approx(np.sqrt(2), rel=0.1)
