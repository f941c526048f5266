"""Stages: what a user's folder of clips becomes, in each way of training, and what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.mixture import DataSource
from cogvideox.errors import UserError
from cogvideox.filter_policy import Bound, Policy
from cogvideox.pretrained import model_folder
from cogvideox.records import Video
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining, LoRASettings, SampleSettings
from cogvideox.training.diffusion.trainer import train
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import read_lora
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny", "5b")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of two sizes and an image, with captions and a score."""
    at, lines = tmp_path_factory.mktemp("clips"), []
    rng = np.random.default_rng(0)
    for i, (frames, height, width) in enumerate([(5, 32, 32), (5, 32, 48), (9, 32, 32), (1, 32, 32)] * 2):
        name = f"{i}.mp4" if frames > 1 else f"{i}.png"
        Video(rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), fps=8.0).save(at / name)
        lines.append(json.dumps({"file_name": name, "text": f"a red ball {i}", "quality": i / 8}))
    (at / "metadata.jsonl").write_text("\n".join(lines))
    return at


@pytest.fixture(scope="module")
def store(model, clips, tmp_path_factory):
    """The same, encoded once by a run of one step."""
    at, settings = tmp_path_factory.mktemp("encoding"), stage(model, clips)
    train(replace(settings, run=replace(settings.run, num_steps=1)), at)
    (store,) = (at / "stores").iterdir()
    return store


def stage(model, at, **changes) -> DiffusionTraining:
    usual = DiffusionTraining(
        model=str(model),
        data=(DataSource(str(at)),),
        row_tokens=64,
        optim=OptimSettings(lr=1e-2, warmup_steps=1, schedule="constant"),
        run=RunSettings(num_steps=3, batch_size=2, device="cpu", log_interval=1, save_interval=1, ema_decay=0.5),
        target=ClipFormat(fps=8.0, num_frames=9, max_area=32 * 48),
        stored_as="float32",
    )
    return replace(usual, **changes)


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_all_weights_learn_and_the_folder_is_a_model(model, clips, tmp_path):
    samples = SampleSettings(("a red ball",), interval=3, num_inference_steps=2, num_frames=5, height=32, width=32)
    settings = stage(model, clips, validation=str(clips), samples=samples)
    finished = train(settings, tmp_path / "run")
    before, after = model_folder.load(model), model_folder.load(finished)
    changed = {
        name: not torch.equal(value, before.transformer.state_dict()[name])
        for name, value in after.transformer.state_dict().items()
    }
    assert all(changed.values())
    assert all(torch.equal(a, b) for a, b in zip(before.vae.state_dict().values(), after.vae.state_dict().values()))
    assert after.settings.provenance["num_samples_seen"] == str(_seen(tmp_path / "run"))
    assert (tmp_path / "run/samples/step-00000003.png").exists()
    lines = metrics(tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert any("validation/loss" in line for line in lines)


def _seen(out) -> int:
    state = json.loads(next((out / "checkpoints").glob("step-*3/state.json")).read_text())
    pairs = dict(dict(state["parts"]["data"]["dict"])["seen"]["dict"])
    return sum(pairs.values())


def test_a_lora_learns_and_the_model_does_not(model, store, tmp_path):
    file = train(stage(model, store, lora=LoRASettings(rank=2, trigger="sks")), tmp_path / "run")
    learned = read_lora(file)
    assert learned.trigger == "sks" and {factors.rank for factors in learned.layers.values()} == {2}
    assert all(factors.up.abs().max() > 0 for factors in learned.layers.values())
    inject.add_lora(model_folder.load(model).transformer, learned)
    saved = next((tmp_path / "run/checkpoints").glob("step-*3/tensors.safetensors")).stat().st_size
    assert saved < (model / "transformer/diffusion_pytorch_model.safetensors").stat().st_size * 2


def test_stages_chain(model, clips, store, tmp_path):
    fresh = model_folder.load(model).transformer.config
    first = train(stage(model, store, transformer=replace(fresh, num_layers=1)), tmp_path / "first")
    second = train(
        stage(first, clips, target=ClipFormat(fps=8.0, num_frames=5, height=32, width=32)), tmp_path / "second"
    )
    spec = model_folder.load(second)
    assert spec.transformer.config.num_layers == 1
    assert spec.settings.provenance["trained_from"] == str(first.resolve())


def test_a_policy_chooses(model, store, tmp_path):
    settings = stage(model, store, policy=Policy((Bound("quality", best=0.5, from_step=1),)))
    train(settings, tmp_path / "run")
    kept = [next((v for k, v in line.items() if k.startswith("kept/")), 1.0) for line in metrics(tmp_path / "run")]
    assert kept == [1.0, 0.5, 0.5]


def test_a_lora_that_was_interrupted_is_one_that_was_not(model, store, tmp_path):
    """That a stage of all weights is, too, is a law (`tests/laws/test_resume.py`)."""
    settings = stage(model, store, lora=LoRASettings(rank=2))
    whole, pieces = train(settings, tmp_path / "whole"), tmp_path / "pieces"
    assert [train(settings, pieces, resume=True, max_seconds=0.0) for _ in range(2)] == [None, None]
    assert train(settings, pieces, resume=True).read_bytes() == whole.read_bytes()


def test_what_is_refused(model, store, tmp_path):
    with pytest.raises(UserError, match="nothing to train on: --data"):
        train(stage(model, store, data=()), tmp_path / "a")
    with pytest.raises(UserError, match=r"nothing at .*gone"):
        train(stage(model, store, data=(DataSource(str(tmp_path / "gone")),)), tmp_path / "b")
    with pytest.raises(UserError, match="leave out either"):
        stage(model, store, lora=LoRASettings(), transformer=model_folder.load(model).transformer.config)
    with pytest.raises(UserError, match="use adamw"):
        stage(model, store, lora=LoRASettings(), optim=OptimSettings(name="muon"))
    with pytest.raises(UserError, match="row_tokens=8 is too small"):
        train(stage(model, store, row_tokens=8), tmp_path / "c")
    wide = replace(model_folder.load(model).transformer.config, text_embed_dim=99)
    with pytest.raises(UserError, match="text_embed_dim=99 does not fit"):
        train(stage(model, store, transformer=wide), tmp_path / "d")
