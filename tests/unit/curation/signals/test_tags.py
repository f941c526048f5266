"""The tags signal: the network's shapes and padding, what is computed from its outputs, and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cogvideox.curation.signals.base import SampledFrames
from cogvideox.curation.signals.models import efficientnet_lite
from cogvideox.curation.signals.models.tags import Tags
from cogvideox.errors import UserError


def test_network_has_the_size_of_the_published_one():
    with torch.device("meta"):
        network = efficientnet_lite.EfficientNetLite0()
        embedding, logits = network.eval()(torch.empty(2, 3, 224, 224))
    assert embedding.shape == (2, 1280) and logits.shape == (2, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    assert len(network._blocks) == 16


@pytest.mark.parametrize(("side", "before", "after"), [(8, 0, 1), (7, 1, 1)])
def test_padding_is_that_of_tensorflow(side: int, before: int, after: int):
    conv = efficientnet_lite.SameConv(1, 1, 3, 2, bias=False)
    x = torch.randn(1, 1, side, side)
    expected = F.conv2d(F.pad(x, (before, after, before, after)), conv.weight, stride=2)
    torch.testing.assert_close(conv(x), expected)


def test_input_is_the_central_square():
    frames = torch.zeros(1, 100, 300, 3, dtype=torch.uint8)
    frames[:, :, 100:200] = 255
    assert efficientnet_lite.prepare(frames).unique().tolist() == [1.0]


def test_tags_are_the_most_probable_classes_and_embeddings_have_length_1():
    def network(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.full((len(x), 1000), -20.0)
        logits[:, 7], logits[0, 3] = 0.0, 0.0
        return torch.tensor([[3.0, 0.0], [3.0, 8.0]]), logits

    sampled = SampledFrames(np.zeros((2, 32, 48, 3), np.uint8), np.arange(2.0), 2.0)
    measured = Tags(num_tags=2).measure(sampled, network, [f"class {index}" for index in range(1000)])
    assert measured["tags.names"] == "class 7\nclass 3"
    assert measured["tags.probabilities"] == pytest.approx([0.75, 0.25], abs=1e-4)
    assert measured["tags.embedding"] == pytest.approx([0.6, 0.8])


def test_other_files_are_rejected(tmp_path: Path):
    (tmp_path / "names.json").write_text(json.dumps(["a"] * 999))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pth")
    signal = Tags(model=str(tmp_path / "model.pth"), names=str(tmp_path / "names.json"))
    assert signal.missing_requirements() == []
    with pytest.raises(UserError, match="not a list of 1000 names"):
        signal.open()
    (tmp_path / "names.json").write_text(json.dumps(["a"] * 1000))
    with pytest.raises(UserError, match="not the published EfficientNet-Lite0"):
        signal.open()
