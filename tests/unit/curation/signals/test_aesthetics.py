"""The aesthetics signal on a tiny random CLIP and head, and the score of technical quality on degraded renders."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from cogvideox.curation.signals.base import ClipInput, SampledFrames
from cogvideox.curation.signals.models.aesthetics import Aesthetics, load_head
from cogvideox.curation.signals.technical import Technical, score_frame
from cogvideox.errors import UserError
from cogvideox.toybox.effects import camera, degradation


def head(dim: int) -> torch.nn.Sequential:
    """Return a head with the structure of the published one."""
    linear, dropout = torch.nn.Linear, torch.nn.Dropout
    return torch.nn.Sequential(
        *(linear(dim, 1024), dropout(0.2), linear(1024, 128), dropout(0.2)),
        *(linear(128, 64), dropout(0.1), linear(64, 16), linear(16, 1)),
    ).eval()


def save_head(network: torch.nn.Sequential, path: Path) -> None:
    torch.save({f"layers.{name}": value for name, value in network.state_dict().items()}, path)


def test_head_computes_what_the_published_structure_computes(tmp_path: Path):
    network, x = head(12), torch.randn(5, 12)
    save_head(network, tmp_path / "head.pth")
    rated = load_head(str(tmp_path / "head.pth"))(x.numpy())
    assert rated == pytest.approx(network(x)[:, 0].detach().numpy(), abs=1e-5)


def test_other_files_are_rejected(tmp_path: Path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="not LAION's improved aesthetic predictor"):
        load_head(str(tmp_path / "head.pth"))


def test_signal_on_a_tiny_clip(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    config.projection_dim = 12
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    save_head(head(12), tmp_path / "head.pth")
    signal = Aesthetics(clip=str(tmp_path / "clip"), head=str(tmp_path / "head.pth"))
    assert signal.missing_requirements() == [] and len(signal.weights_hash()) == 128
    frames = camera.texture(0, (40, 60))[None].repeat(2, 0)
    clip = ClipInput({}, (SampledFrames(frames, np.arange(2.0), 2.0),), Path("clip.mp4"), 0.0, 2.0)
    measured = signal.open()(clip)
    assert np.isfinite(measured["aesthetics.score"])
    assert np.linalg.norm(measured["aesthetics.embedding"]) == pytest.approx(1.0)


def test_missing_models_are_named():
    needs = Aesthetics().missing_requirements()
    assert any("signals.aesthetics.clip" in need for need in needs)
    assert any("signals.aesthetics.head" in need for need in needs)


@pytest.mark.parametrize("seed", range(4))
def test_technical_score_falls_with_degradation(seed: int):
    frames = camera.texture(seed, (180, 240))[None]
    plain = score_frame(frames[0])
    damaged = {
        "blur": degradation.blur(frames, 3.0),
        "blocks": degradation.jpeg(frames, 5),
        "noise": degradation.noise(frames, 30.0, seed),
        "dark": degradation.expose(frames, 0.2),
        "bright": degradation.expose(frames, 4.0),
        "enlarged": degradation.enlarge(frames, 4.0),
    }
    for name, changed in damaged.items():
        assert score_frame(changed[0]) < plain, name
    clip = ClipInput({}, (SampledFrames(frames, np.zeros(1), 1.0),), Path("clip.mp4"), 0.0, 1.0)
    assert Technical().open()(clip) == {"technical.score": plain}
