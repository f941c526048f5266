"""Signals and TransNetV2 with published weights: `make test-real` fetches them; without them, the tests are skipped."""

import os
from pathlib import Path

import numpy as np
import pytest

from cogvideox.curation.model_files import FOLDER_VARIABLE
from cogvideox.curation.signals.base import ClipInput, SampledFrames
from cogvideox.curation.signals.models.brisque import Brisque
from cogvideox.curation.signals.models.objects import Objects
from cogvideox.curation.signals.models.registry import MODEL_FILES
from cogvideox.curation.signals.models.speech import MODEL, Speech, load_detector
from cogvideox.curation.signals.models.tags import Tags
from cogvideox.curation.stages.split import TRANSNET, Split
from cogvideox.toybox.effects import camera, degradation, scenes
from tests.unit.curation.test_shots import FPS, score

pytestmark = pytest.mark.skipif(FOLDER_VARIABLE not in os.environ, reason="run by make test-real")


def clip(frames: np.ndarray) -> ClipInput:
    sampled = SampledFrames(frames, np.arange(len(frames), dtype=float), float(len(frames)))
    return ClipInput({}, (sampled,), Path("clip.mp4"), 0.0, float(len(frames)))


@pytest.mark.parametrize("file", [*MODEL_FILES, TRANSNET], ids=lambda file: file.name)
def test_model_file_is_the_published_one(file):
    assert file.missing("model", "") == []


def test_degraded_frames_have_a_higher_brisque():
    measure = Brisque().open()
    for seed in range(4):
        frames = camera.texture(seed, (288, 352))[None]
        plain = measure(clip(frames))["brisque.score"]
        for damaged in (degradation.jpeg(frames, 8), degradation.noise(frames, 30.0, seed)):
            assert measure(clip(damaged))["brisque.score"] > plain


def test_tags_of_a_screen_and_embeddings_of_similar_clips():
    measure = Tags().open()
    screen = measure(clip(scenes.screen_recording(2, (360, 640), 0)[:1]))
    again = measure(clip(degradation.jpeg(scenes.screen_recording(2, (360, 640), 0)[:1], 40)))
    other = measure(clip(camera.texture(1, (360, 640))[None]))
    assert "website" in screen["tags.names"]
    similarity = [float(np.dot(screen["tags.embedding"], each["tags.embedding"])) for each in (again, other)]
    assert similarity[0] > 0.9 > similarity[1]


def test_noise_and_silence_are_not_speech():
    rng = np.random.default_rng(0)
    signal, rate = Speech(), load_detector(MODEL.path(""))
    for sound in (np.zeros(48000, np.float32), rng.normal(0, 0.1, 48000).astype(np.float32)):
        assert signal.measure(sound, rate)["speech.share"] == 0.0


def test_noise_has_no_objects_and_a_drawn_talking_head_at_most_one_person():
    measure = Objects().open()
    rng = np.random.default_rng(0)
    assert measure(clip(rng.integers(0, 255, (1, 240, 320, 3), dtype=np.uint8)))["objects.num_objects"] == 0.0
    assert measure(clip(scenes.talking_head(1, (360, 480), 1)))["objects.num_people"] <= 1.0


def test_transnet_finds_cuts_and_dissolves():
    split = Split(detector="transnet")
    f1 = score(range(80, 84), lambda: split.finder(FPS))
    print(f1)
    assert f1["cut"] >= 0.9
    assert f1["dissolve"] >= 0.85
