"""Diffusion training on a folder of clips: full fine-tuning, LoRA, chained stages, and invalid input."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.dataset.mixture import DataSource
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.model_spec import SETTINGS_FILE, read_spec
from cogvideox.records import Video
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.latent_stores import open_stores
from cogvideox.training.diffusion.trainer import train
from cogvideox.training.run import training_run
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.config import LoRASettings
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
    """The same clips, encoded by a run of one step."""
    at, settings = tmp_path_factory.mktemp("encoding"), config(model, clips)
    train(replace(settings, run=replace(settings.run, num_steps=1)), at)
    (store,) = (at / "stores").iterdir()
    return store


def config(model, at, **changes) -> DiffusionTraining:
    base = DiffusionTraining(
        model=str(model),
        data=(DataSource(str(at)),),
        row_tokens=64,
        optim=OptimSettings(lr=1e-2, warmup_steps=1, schedule="constant"),
        run=RunSettings(num_steps=3, batch_size=2, device="cpu", log_interval=1, save_interval=1, ema_decay=0.5),
        target=ClipFormat(fps=8.0, num_frames=9, max_area=32 * 48),
        export_dtype="float32",
    )
    return replace(base, **changes)


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_fine_tuning_changes_all_weights_and_exports_a_model(model, clips, tmp_path):
    samples = SampleSettings(("a red ball",), interval=3, num_inference_steps=2, num_frames=5, height=32, width=32)
    settings = config(model, clips, validation=str(clips), samples=samples)
    exported = train(settings, tmp_path / "run")
    before, after = model_folder.load(model), model_folder.load(exported)
    changed = {
        name: not torch.equal(value, before.transformer.state_dict()[name])
        for name, value in after.transformer.state_dict().items()
    }
    assert all(changed.values())
    assert all(torch.equal(a, b) for a, b in zip(before.vae.state_dict().values(), after.vae.state_dict().values()))
    assert after.settings.provenance["num_samples_seen"] == str(_num_samples_seen(tmp_path / "run"))
    assert (tmp_path / "run/samples/step-00000003.png").exists()
    lines = metrics(tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert any("validation/loss" in line for line in lines)


def _num_samples_seen(out) -> int:
    state = json.loads(next((out / "checkpoints").glob("step-*3/state.json")).read_text())
    pairs = dict(dict(state["parts"]["data"]["dict"])["seen"]["dict"])
    return sum(pairs.values())


def test_official_models_are_trained_as_the_authors_did(model, clips, tmp_path, capsys):
    """Whole-clip latents, and zeros for dropped captions. The run records both; an exported model keeps them, and the
    null prompt of diffusers for generation."""
    official = shutil.copytree(model, tmp_path / "official")
    (official / SETTINGS_FILE).unlink()
    exported = train(config(official, clips, text_dropout=1.0), tmp_path / "run")
    recorded = yaml.safe_load((tmp_path / "run/settings.yaml").read_text())
    assert (recorded["null_text"], recorded["norm_statistics"]) == ("zero", "clip")
    (store,) = (tmp_path / "run/stores").iterdir()
    assert LatentStore(store).settings.norm_statistics == "clip"
    settings = read_spec(exported).settings
    assert (settings.null_text, settings.training_null_text, settings.norm_statistics) == ("empty", "zero", "clip")

    # A choice differs from the model's, so the new model is sampled with it.
    exported = train(config(model, store, null_text="zero"), tmp_path / "other")
    assert yaml.safe_load((tmp_path / "other/settings.yaml").read_text())["null_text"] == "zero"
    settings = read_spec(exported).settings
    assert (settings.null_text, settings.training_null_text) == ("zero", "zero")
    assert "note:" not in capsys.readouterr().err  # clips of 9 frames are one chunk either way


@pytest.mark.parametrize(("chosen", "expected"), [(None, "empty"), ("empty", "empty"), ("zero", "zero")])
def test_dropped_captions_are_the_null_text(model, store, tmp_path, chosen, expected):
    settings = config(model, store, null_text=chosen).resolved(read_spec(model).settings)
    assert settings.null_text == expected
    with training_run(settings, tmp_path / "run") as run:
        null_text = open_stores(settings, read_spec(model), run).null_text
    assert torch.equal(null_text, LatentStore(store).null_text(expected).float())
    assert null_text.any() == (expected == "empty")


def test_lora_training_changes_only_the_lora(model, store, tmp_path):
    file = train(config(model, store, lora=LoRASettings(rank=2, trigger="sks")), tmp_path / "run")
    lora = read_lora(file)
    assert lora.trigger == "sks" and {factors.rank for factors in lora.layers.values()} == {2}
    assert all(factors.up.abs().max() > 0 for factors in lora.layers.values())
    inject.add_lora(model_folder.load(model).transformer, lora)
    saved = next((tmp_path / "run/checkpoints").glob("step-*3/tensors.safetensors")).stat().st_size
    assert saved < (model / "transformer/diffusion_pytorch_model.safetensors").stat().st_size * 2


def test_stages_can_be_chained(model, clips, store, tmp_path):
    fresh = model_folder.load(model).transformer.config
    first = train(config(model, store, transformer=replace(fresh, num_layers=1)), tmp_path / "first")
    second = train(
        config(first, clips, target=ClipFormat(fps=8.0, num_frames=5, height=32, width=32)), tmp_path / "second"
    )
    spec = model_folder.load(second)
    assert spec.transformer.config.num_layers == 1
    assert spec.settings.provenance["trained_from"] == str(first.resolve())


def test_the_filter_policy_selects_clips_by_step(model, store, tmp_path):
    settings = config(model, store, policy=Policy((Bound("quality", best=0.5, from_step=1),)))
    train(settings, tmp_path / "run")
    kept = [next((v for k, v in line.items() if k.startswith("kept/")), 1.0) for line in metrics(tmp_path / "run")]
    assert kept == [1.0, 0.5, 0.5]


def test_a_resumed_lora_run_is_bit_identical_to_an_uninterrupted_one(model, store, tmp_path):
    """For training of all weights see `tests/laws/test_resume.py`."""
    settings = config(model, store, lora=LoRASettings(rank=2))
    uninterrupted, out = train(settings, tmp_path / "uninterrupted"), tmp_path / "resumed"
    assert [train(settings, out, resume=True, max_seconds=0.0) for _ in range(2)] == [None, None]
    assert train(settings, out, resume=True).read_bytes() == uninterrupted.read_bytes()


def test_invalid_input_is_rejected(model, store, tmp_path):
    with pytest.raises(UserError, match=r"no training data: .* --data"):
        train(config(model, store, data=()), tmp_path / "a")
    with pytest.raises(UserError, match=r"gone does not exist"):
        train(config(model, store, data=(DataSource(str(tmp_path / "gone")),)), tmp_path / "b")
    with pytest.raises(UserError, match="remove either"):
        config(model, store, lora=LoRASettings(), transformer=model_folder.load(model).transformer.config)
    with pytest.raises(UserError, match="use adamw"):
        config(model, store, lora=LoRASettings(), optim=OptimSettings(name="muon"))
    with pytest.raises(UserError, match="row_tokens=8 is too small"):
        train(config(model, store, row_tokens=8), tmp_path / "c")
    wide = replace(model_folder.load(model).transformer.config, text_embed_dim=99)
    with pytest.raises(UserError, match="text_embed_dim=99 must be"):
        train(config(model, store, transformer=wide), tmp_path / "d")
