"""The faces signal: what it computes from detections, and that pictures without people have none."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from pathlib import Path

from cogvideox.curation.signals.base import ClipInput, SampledFrames
from cogvideox.curation.signals.faces import Faces
from cogvideox.toybox.effects import camera, scenes


def sampled(frames):
    return SampledFrames(frames, np.arange(len(frames), dtype=float), float(len(frames)))


def test_share_of_time_area_and_number():
    frames = np.zeros((4, 50, 100, 3), np.uint8)
    detections = iter([[(0, 0, 10, 10)], [], [(0, 0, 20, 25), (40, 0, 10, 10)], [(5, 5, 10, 10)]])
    measured = Faces().measure(sampled(frames), lambda frame: next(detections))
    assert measured["faces.time_share"] == 0.75
    assert measured["faces.num_faces"] == 1.0
    assert measured["faces.area"] == pytest.approx((100 + 500 + 100) / 4 / 5000)


def test_pictures_without_people_have_no_faces():
    frames = np.concatenate([scenes.slides(2, (240, 320), 1), camera.texture(2, (240, 320))[None]])
    clip = ClipInput({}, (sampled(frames),), Path("clip.mp4"), 0.0, 3.0)
    assert set(Faces().open()(clip).values()) == {0.0}
