"""Label filters on a tiny random video-language model: training, saving, and identical predictions after loading."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("cv2")

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.errors import UserError
from cogvideox.training.labels import trainer
from cogvideox.training.labels.config import VlmLabelsConfig
from cogvideox.video import io
from tests.unit.training.labels.tiny_vlm import write_tiny_vlm

NUMBER = 12
SETTINGS = {"num_frames": 2, "longest_side": 48, "rank": 4, "learning_rate": 1e-2, "num_steps": 40, "batch_size": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm") / "base")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Bright and dark clips, alternating."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    rows = []
    for index in range(NUMBER):
        level = 200 if index % 2 else 40
        clip = np.clip(rng.normal(level, 12, (6, 32, 48, 3)), 0, 255).astype(np.uint8)
        io.write(folder / f"{index}.mp4", clip, 8.0)
        rows.append(
            {"id": str(index), "path": str(folder / f"{index}.mp4"), "start": 0.0, "end": 0.75, "is_image": False}
        )
    return rows


def bright() -> dict[str, np.ndarray]:
    """Return the ground truth: `text` means bright, `static` means dark, and all other labels are unknown."""
    truth = {name: np.full(NUMBER, np.nan) for name in LABELS}
    truth["text"] = np.arange(NUMBER) % 2 * 1.0
    truth["static"] = 1.0 - truth["text"]
    return truth


@pytest.mark.parametrize("answer", ["head", "chat"])
def test_filter_is_trained_and_saved(base, rows, tmp_path, answer):
    losses = []
    config = VlmLabelsConfig(answer=answer, **SETTINGS)
    thresholds = trainer.train(base, rows, bright(), tmp_path, config, on_step=lambda step: losses.append(step.loss))
    assert thresholds == {"static": 0.5, "text": 0.5}
    assert len(losses) == 40 and np.mean(losses[-8:]) < 0.5 * np.mean(losses[:4])
    model, loaded = trainer.load(tmp_path)
    assert loaded == thresholds and model.config == config
    predicted = trainer.predict(model, rows, ["text", "static"])
    assert ((predicted["text"] > 0.5) == (bright()["text"] > 0.5)).mean() > 0.8
    again = trainer.predict(trainer.load(tmp_path)[0], rows, ["text"])
    np.testing.assert_array_equal(predicted["text"], again["text"])
    assert not list(tmp_path.glob("*.bin")), "weights are stored as safetensors only"


def test_only_lora_and_the_head_are_trained(base):
    network, processor = trainer.load_network(base, torch.device("cpu"))
    config = VlmLabelsConfig(**SETTINGS)
    model = trainer.VlmLabels(trainer.add_lora(network, config), processor, config)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name or name.startswith("head.") for name in names) and len(names) > 10


def test_unreadable_clips_have_no_prediction(base, rows):
    network, processor = trainer.load_network(base, torch.device("cpu"))
    model = trainer.VlmLabels(network, processor, VlmLabelsConfig(answer="chat", **SETTINGS)).eval()
    predicted = trainer.predict(model, [rows[0], rows[1] | {"path": "nowhere.mp4"}], ["text"])
    assert np.isfinite(predicted["text"]).tolist() == [True, False]


def test_errors_say_what_to_do(base, rows, tmp_path):
    with pytest.raises(UserError, match="no config"):
        trainer.train(tmp_path, rows, bright(), tmp_path / "out", VlmLabelsConfig(**SETTINGS))
    with pytest.raises(UserError, match="set target_modules"):
        trainer.train(base, rows, bright(), tmp_path / "out", VlmLabelsConfig(**SETTINGS, target_modules=("nothing",)))
    nothing = {name: np.full(NUMBER, np.nan) for name in LABELS}
    with pytest.raises(UserError, match="annotate more clips"):
        trainer.train(base, rows, nothing, tmp_path / "out", VlmLabelsConfig(**SETTINGS))
    with pytest.raises(UserError, match=r"labels\.json"):
        trainer.load(tmp_path)
    assert not (tmp_path / "out").exists()


def test_drawn_positive_and_negative_clips_have_equal_total_weight():
    known = np.full((200, 2), np.nan)
    known[:, 0] = np.arange(200) < 10
    known[:120, 1] = np.arange(120) % 4 == 0
    weights = trainer._class_weights(known, [True, True])
    chances = sum((known == value) / (known == value).sum(0) for value in (0, 1)).sum(
        1
    )  # of `_draw`: a label, its value, a clip
    for label in (0, 1):
        positive, negative = ((chances * weights[:, label])[known[:, label] == value].sum() for value in (1, 0))
        assert positive == pytest.approx(negative)
    assert not weights[120:, 1].any()
