import numpy as np
import pytest

from cogvideox.curation.captions.back_ends.tags import describe_facts
from cogvideox.curation.captions.facts import MOTION_SAMPLING, ClipFacts, Measurer, directions, dominant_colors
from cogvideox.curation.signals.base import SampledFrames
from cogvideox.errors import UserError
from cogvideox.toybox.effects import camera

VELOCITIES = {"right": (2.0, 0.0), "left": (-2.0, 0.0), "down": (0.0, 2.0), "up": (0.0, -2.0), "still": (0.0, 0.0)}


def sampled(frames: np.ndarray, fps: float = 8.0) -> SampledFrames:
    return SampledFrames(frames, np.arange(len(frames)) / fps, len(frames) / fps)


@pytest.mark.parametrize("direction", VELOCITIES)
def test_direction_of_the_camera(direction):
    pytest.importorskip("cv2")
    canvas = camera.texture(3, (200, 260))
    frames = camera.film(canvas, camera.pan(12, VELOCITIES[direction]), (96, 128))
    assert directions(sampled(frames))[0] == direction


@pytest.mark.parametrize(
    ("direction", "step"), [("left", (-3, 0)), ("right", (3, 0)), ("up", (0, -3)), ("down", (0, 3))]
)
def test_direction_of_an_object_with_a_still_camera(direction, step):
    pytest.importorskip("cv2")
    step = np.array(VELOCITIES[direction]) * 1.5
    background = camera.texture(5, (96, 128))
    patch = camera.texture(9, (28, 28))[..., ::-1]
    frames = np.stack([background] * 10)
    for index, frame in enumerate(frames):
        x, y = np.array([50, 34]) + (step * (index - 5)).astype(int)
        frame[y : y + 28, x : x + 28] = patch
    assert directions(sampled(frames)) == ("still", direction)


def test_single_frames_have_no_direction():
    assert directions(sampled(np.zeros((1, 32, 32, 3), np.uint8))) == (None, None)


def test_dominant_colors():
    frame = np.full((1, 80, 80, 3), (200, 35, 40), np.uint8)
    frame[:, 60:] = (245, 245, 245)
    assert dominant_colors(frame) == ("red", "white")


def test_columns_of_a_manifest_are_used_instead_of_measuring():
    measurer = Measurer(())
    assert measurer.samplings == (MOTION_SAMPLING,) and measurer.identity == ""
    pytest.importorskip("cv2")
    row = {"faces.time_share": 1.0, "faces.area": 0.2, "faces.num_faces": 2.0}
    facts = Measurer(("faces",)).clip(row, {MOTION_SAMPLING: sampled(np.zeros((2, 32, 32, 3), np.uint8))})
    assert facts.faces == 2.0 and facts.counts is None and facts.colors == ("black",)


def test_signals_without_facts_are_rejected():
    with pytest.raises(
        UserError, match="measure=colors: these signals give no facts; available: faces, objects, tags, text"
    ):
        Measurer(("faces", "colors"))


def test_describe_facts():
    assert describe_facts(ClipFacts()) == "A view."
    facts = ClipFacts(
        ("EXIT", "2nd floor"), {"person": 2.2, "bus": 1.0, "dog": 0.3}, {"albatross": 0.5}, 0.0, ("gray",)
    )
    assert describe_facts(facts) == (
        'Two people and a bus, something like an albatross, mostly gray, with text that reads "EXIT" and "2nd floor".'
    )
    assert describe_facts(ClipFacts(faces=1.0, camera="left", motion="still")) == (
        "A person whose face is seen, the camera moves to the left."
    )


def test_color_names():
    named = {
        "black": (10, 10, 12),
        "gray": (130, 132, 128),
        "white": (250, 250, 250),
        "red": (200, 35, 40),
        "green": (90, 130, 60),
        "dark green": (40, 70, 30),
        "brown": (110, 75, 45),
        "beige": (215, 185, 150),
        "light blue": (150, 195, 235),
        "dark blue": (20, 35, 90),
        "pink": (240, 100, 190),
        "yellow": (240, 215, 50),
    }
    for name, color in named.items():
        assert dominant_colors(np.full((1, 16, 16, 3), color, np.uint8)) == (name,)
