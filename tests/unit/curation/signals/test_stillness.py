"""The stillness signal against clips with known freezes."""

from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.signals.base import ClipInput, SampledFrames
from cogvideox.curation.signals.stillness import Stillness, frozen_time, ssim
from cogvideox.toybox.effects import camera, degradation, timing
from cogvideox.video import io

FPS = 8.0


@pytest.fixture(scope="module")
def clip():
    return camera.film(camera.texture(1, (300, 400)), camera.pan(32, (2.0, 1.0)), (72, 96))


def measure(frames, fps=FPS):
    times = np.arange(len(frames)) / fps
    seconds = len(frames) / fps
    every, spaced = SampledFrames(frames, times, seconds), SampledFrames(frames[::4], times[::4], seconds)
    return Stillness().measure(ClipInput({}, (every, spaced), Path("clip.mp4"), 0.0, seconds))


def test_a_moving_clip_is_never_frozen(clip):
    assert measure(clip)["stillness.frozen_share"] == 0.0


def test_a_freeze_is_measured_also_under_compression_noise(clip):
    frozen = timing.freeze(clip, 8, 17)
    for frames in (frozen, degradation.noise(frozen, 0.4, 0)):
        measured = measure(frames)
        assert measured["stillness.frozen_share"] == pytest.approx(16 / 31)
        assert measured["stillness.longest_freeze"] == pytest.approx(16 / FPS)


def encoded(frames: np.ndarray, crf: int, path: Path) -> np.ndarray:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = {"crf": str(crf)}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return io.read(path)[0]


@pytest.mark.parametrize("crf", [18, 28])
@pytest.mark.parametrize("seed", range(3))
def test_refinements_of_an_encoded_freeze_are_not_motion(tmp_path, crf, seed):
    moving = camera.film(camera.texture(seed, (300, 400)), camera.pan(48, (1.5, 0.7)), (144, 256))
    frames = encoded(timing.freeze(moving, 8, 30), crf, tmp_path / "clip.mp4")
    measured = measure(frames)
    assert measured["stillness.frozen_share"] == pytest.approx(29 / 47, abs=0.03)
    assert measured["stillness.longest_freeze"] == pytest.approx(29 / FPS, abs=2 / FPS)


@pytest.mark.parametrize("crf", [18, 35])
def test_slow_motion_is_not_a_freeze(tmp_path, crf):
    canvas = camera.texture(5, (300, 400))
    for path in (camera.pan(48, (0.06, 0.0)), camera.zoom(48, 0.0005)):
        frames = encoded(camera.film(canvas, path, (144, 256)), crf, tmp_path / "clip.mp4")
        assert measure(frames)["stillness.frozen_share"] <= 0.05


def test_a_still_with_a_slow_zoom_changes_less_than_a_moving_clip(clip):
    still = timing.slide_show([clip[0]], 32, zoom_rate=0.0005)
    assert measure(still)["stillness.change"] < 0.5 * measure(clip)["stillness.change"]


def test_a_small_moving_object_is_not_a_freeze(clip):
    frames = np.repeat(clip[:1], 16, axis=0)
    for index, frame in enumerate(frames):
        frame[30:38, 10 + 3 * index : 18 + 3 * index] = 255
    assert measure(frames)["stillness.frozen_share"] == 0.0


def test_frozen_time_uses_durations():
    share, longest = frozen_time(np.array([True, False, True, True]), np.array([1.0, 5.0, 2.0, 2.0]))
    assert share == 0.5
    assert longest == 4.0


def test_ssim_of_equal_frames_is_one_and_falls_with_noise(clip):
    assert ssim(clip[0], clip[0]) == pytest.approx(1.0)
    values = [ssim(clip[0], degradation.noise(clip[:1], sigma, 0)[0]) for sigma in (5.0, 20.0, 60.0)]
    assert values == sorted(values, reverse=True)


def test_an_image_has_no_stillness(clip):
    assert set(measure(clip[:1]).values()) == {None}
