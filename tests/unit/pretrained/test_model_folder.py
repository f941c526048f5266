"""Model folders: lossless and atomic saving, strict loading."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder, model_spec
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny")


def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def change(file, **values):
    data = json.loads(file.read_text())
    data.update(values)
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def states(model):
    return {part: getattr(model, part).state_dict() for part in model_spec.WEIGHT_STEMS}


def assert_same(a, b):
    for part, state in states(a).items():
        for name, tensor in states(b)[part].items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    assert (a.schedule, a.settings) == (b.schedule, b.settings)
    prompt = tiny.CAPTIONS[0]
    assert torch.equal(a.tokenizer.encode([prompt], 12), b.tokenizer.encode([prompt], 12))


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
def test_a_saved_model_is_loaded_unchanged(variant, tmp_path):
    saved = tiny.model(variant)
    loaded = model_folder.load(model_folder.save(saved, tmp_path / "m"))
    assert_same(loaded, saved)
    assert not loaded.transformer.training
    assert not any(p.requires_grad for p in loaded.transformer.parameters())


def test_loading_does_not_import_the_compiler(model):
    """Initializing weights on the meta device would import it, which takes longer than loading a small model."""
    load = "import sys; from cogvideox.pretrained import model_folder; model_folder.load(sys.argv[1])"
    code = f"{load}; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(model)], check=True)


def test_sharded_weights_are_loaded_unchanged(tmp_path):
    saved = tiny.model()
    path = model_folder.save(saved, tmp_path / "m", max_shard_bytes=20_000)
    assert len(list((path / "transformer").glob("*.safetensors"))) > 1
    assert_same(model_folder.load(path), saved)


def test_save_casts_to_given_dtype(tmp_path):
    saved = tiny.model()
    path = model_folder.save(saved, tmp_path / "m", dtype=torch.bfloat16)
    weight = model_folder.load(path).transformer.text_in.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, saved.transformer.text_in.weight.bfloat16().float())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_temporary_folders_of_killed_processes_are_removed(model, tmp_path, monkeypatch):
    """Includes the case that the next process has the same PID, as in containers."""
    if (process := os.fork()) == 0:
        try:
            with model_folder.atomic_model_folder(tmp_path / "m", ["vae/config.json"]):
                os._exit(1)
        finally:
            os._exit(2)
    os.waitpid(process, 0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".new"]
    monkeypatch.setattr(os, "getpid", lambda: process)
    path = model_folder.save(model_folder.load(model), tmp_path / "m")
    assert list(tmp_path.iterdir()) == [path]


def test_save_replaces_a_model_and_nothing_else(model, tmp_path):
    path = copy(model, tmp_path)
    saved = tiny.model()
    saved.settings = replace(saved.settings, fps=3.0)
    model_folder.save(saved, path)
    assert model_spec.read_spec(path).settings.fps == 3.0
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a model"):
        model_folder.save(saved, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_save_does_not_delete_other_files_in_a_model_folder(model, tmp_path):
    path = copy(model, tmp_path)
    (path / "samples").mkdir()
    (path / "thesis.txt").write_text("years of work")
    before = sorted(path.rglob("*"))
    with pytest.raises(UserError, match=r"copy: samples, thesis\.txt in it would be lost; choose a different folder"):
        model_folder.save(tiny.model(), path)
    assert sorted(tmp_path.rglob("*")) == [path, *before]


def test_save_follows_links_and_does_not_replace_the_current_folder(model, tmp_path, monkeypatch):
    path = copy(model, tmp_path)
    (tmp_path / "link").symlink_to(path)
    saved = tiny.model()
    saved.settings = replace(saved.settings, fps=3.0)
    model_folder.save(saved, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and model_spec.read_spec(path).settings.fps == 3.0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "link"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for target in (".", "", tmp_path / "empty"):
        with pytest.raises(UserError, match="it would replace the current folder"):
            model_folder.save(saved, target)
    assert (tmp_path / "empty").is_dir()


def test_a_failed_save_keeps_the_old_model(model, tmp_path):
    path = copy(model, tmp_path)
    saved = tiny.model()
    saved.tokenizer = None  # fails in the middle of writing
    with pytest.raises(AttributeError):
        model_folder.save(saved, path)
    assert_same(model_folder.load(path), tiny.model())
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]


def test_a_folder_without_settings_has_the_official_defaults(model, tmp_path):
    path = copy(model, tmp_path)
    (path / model_spec.SETTINGS_FILE).unlink()
    settings = model_spec.read_spec(path).settings
    assert (settings.num_inference_steps, settings.sampler, settings.height) == (50, "ddim", 32)
    change(path / model_spec.SCHEDULER_FILE, _class_name="CogVideoXDPMScheduler")
    assert model_spec.read_spec(path).settings.sampler == "dpm++"


def test_settings_may_omit_keys(model, tmp_path):
    path = copy(model, tmp_path)
    (path / model_spec.SETTINGS_FILE).write_text(json.dumps({"fps": 12, "null_text": "zero"}))
    settings = model_spec.read_spec(path).settings
    assert (settings.fps, settings.null_text, settings.num_inference_steps) == (12, "zero", 50)


def test_settings_saved_as_json_are_loaded_unchanged(tmp_path):
    settings = tiny.settings()
    config.save(settings, tmp_path / "cogvideox.json")
    assert config.load(type(settings), tmp_path / "cogvideox.json") == settings


def test_models_are_found_by_path_and_the_error_lists_the_shipped_names(model, tmp_path, monkeypatch):
    assert model_spec.find_model(model) == (str(model), model)
    monkeypatch.chdir(model.parent)
    assert model_spec.find_model("tiny") == (str(model), model_spec.Path("tiny"))
    for name in ("nothing-here", tmp_path):
        with pytest.raises(UserError) as error:
            model_spec.read_spec(name)
        assert str(name) in str(error.value)
        assert all(shipped in str(error.value) for shipped in model_spec.shipped_models())


@pytest.mark.parametrize(
    "missing",
    [
        "vae/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_an_error_names_a_missing_file(model, tmp_path, missing):
    path = copy(model, tmp_path)
    (path / missing).unlink()
    with pytest.raises(UserError, match=f"{missing.replace('.', '[.]')}.*missing"):
        model_folder.load(path)


@pytest.mark.parametrize("part", model_spec.WEIGHT_STEMS)
def test_an_error_names_truncated_weights(model, tmp_path, part):
    file = model_spec.weights_file(copy(model, tmp_path) / part, part)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=part):
        model_folder.load(tmp_path / "copy")


def test_nan_weights_are_rejected(tmp_path):
    saved = tiny.model()
    with torch.no_grad():
        saved.transformer.text_in.weight[0, 0] = float("nan")
    path = model_folder.save(saved, tmp_path / "m")
    with pytest.raises(UserError, match=r"(?i)nan"):
        model_folder.load(path)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vae/config.json", {"latent_channels": 8}, "do not match"),
        ("transformer/config.json", {"text_embed_dim": 16}, "do not match"),
        ("transformer/config.json", {"num_layers": 3}, "transformer"),
        ("transformer/config.json", {"num_layer": 2}, "num_layer"),
        ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"}, "EulerDiscreteScheduler"),
        ("cogvideox.json", {"fsp": 8}, "fps"),
        ("cogvideox.json", {"sampler": "euler"}, "sampler"),
        ("cogvideox.json", {"fps": "eight"}, "fps"),
    ],
)
def test_an_error_names_an_unsupported_config(model, tmp_path, file, values, message):
    path = copy(model, tmp_path)
    change(path / file, **values)
    with pytest.raises(UserError, match=message):
        model_folder.load(path)


def test_save_with_transformer_copies_the_other_components(model, tmp_path):
    spec, other = model_spec.read_spec(model), tiny.model("5b").transformer
    settings = replace(spec.settings, fps=3.0)
    path = model_folder.save_with_transformer(spec, tmp_path / "m", other.state_dict(), other.config, settings)
    loaded, base = model_folder.load(path), model_folder.load(model)
    assert loaded.settings == settings and loaded.transformer.config == other.config
    for name, tensor in other.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], tensor)
    loaded.transformer, base.transformer = other, other
    base.settings = settings
    assert_same(loaded, base)
