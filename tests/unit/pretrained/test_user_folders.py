"""Model folders as users have them: files of a variant, PyTorch files, Git LFS pointers, old schedulers, indices."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.conversion.detect import detect_checkpoint
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, read_spec, weights_file
from cogvideox.state_dict.safetensors_io import load_state
from tests import tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 791656\n"


@pytest.fixture(scope="module")
def unsharded(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("models") / "unsharded")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return model_folder.save(tiny.model(), tmp_path_factory.mktemp("models") / "sharded", max_shard_bytes=20_000)


def copied(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "copy")


def weights(path: Path) -> dict[str, torch.Tensor]:
    loaded = model_folder.load(path)
    return {
        f"{part}.{name}": tensor for part in WEIGHT_STEMS for name, tensor in getattr(loaded, part).state_dict().items()
    }


def assert_same_weights(path: Path, other: Path) -> None:
    actual, expected = weights(path), weights(other)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def rename_to_variant(model: Path, variant: str, *, older: bool = False) -> None:
    """Rename all weights as `save_pretrained(variant=...)` does.

    Args:
        older: name shards as diffusers did before 0.31: the variant before the shard number instead of after it.
    """
    for index in model.glob("*/*.index.json"):
        content = index.read_text()
        for shard in index.parent.glob("*-of-*.safetensors"):
            stem, _, position = shard.stem.partition("-")
            name = f"{stem}.{variant}-{position}" if older else f"{stem}-{position}.{variant}"
            content = content.replace(shard.name, f"{name}.safetensors")
            shard.rename(shard.with_name(f"{name}.safetensors"))
        index.with_name(index.name.removesuffix("json") + f"{variant}.json").write_text(content)
        index.unlink()
    for file in [*model.glob("*/diffusion_pytorch_model.safetensors"), *model.glob("*/model.safetensors")]:
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("layout", ["unsharded", "sharded", "older shards"])
def test_weights_of_a_variant_are_loaded(unsharded, sharded, tmp_path, variant, layout):
    model = copied(unsharded if layout == "unsharded" else sharded, tmp_path)
    rename_to_variant(model, variant, older=layout == "older shards")
    assert not any(file.name == "model.safetensors" for file in model.rglob("*"))
    assert_same_weights(model, unsharded)
    assert detect_checkpoint(model).variant == "2b"


def test_weights_without_a_variant_are_preferred(unsharded, tmp_path):
    model = copied(unsharded, tmp_path)
    (model / "vae/diffusion_pytorch_model.fp16.safetensors").write_text("another one")
    assert_same_weights(model, unsharded)


def test_the_error_lists_the_existing_files(unsharded, tmp_path):
    model = copied(unsharded, tmp_path)
    file = model / "vae/diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("vae.safetensors"))
    with pytest.raises(UserError, match=r"vae/diffusion_pytorch_model\.safetensors is missing; there is vae\.saf"):
        weights_file(model / "vae", "vae")
    for variant in ("bf16", "fp16"):
        file.with_name(f"diffusion_pytorch_model.{variant}.safetensors").touch()
    with pytest.raises(UserError, match=r"several variants \(diffusion_pytorch_model\.bf16\.safetensors, .*remove or"):
        weights_file(model / "vae", "vae")


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_pytorch_files_and_their_shards_are_loaded(unsharded, tmp_path, variant):
    """The files of the text encoder are named pytorch_model, as transformers did before safetensors."""
    model = copied(unsharded, tmp_path)
    for name, stem in {**WEIGHT_STEMS, "text_encoder": "pytorch_model"}.items():
        state = load_state(model / name)
        (file,) = (model / name).glob("*.safetensors")
        file.unlink()
        if name == "vae":
            torch.save(state, model / name / f"{stem}{variant}.bin")
            continue
        names = [f"{stem}-0000{i}-of-00002{variant}.bin" for i in (1, 2)]
        parts = [dict(list(state.items())[i::2]) for i in range(2)]
        for shard, part in zip(names, parts):
            torch.save({key: tensor.clone() for key, tensor in part.items()}, model / name / shard)
        weight_map = {key: shard for shard, part in zip(names, parts) for key in part}
        (model / name / f"{stem}.bin.index{variant}.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_weights(model, unsharded)


@pytest.mark.parametrize("spacing", ["linspace", "leading", None])
def test_schedulers_of_early_folders_are_read(unsharded, tmp_path, spacing):
    model = copied(unsharded, tmp_path)
    file = model / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text()) | {"timestep_spacing": spacing}
    file.write_text(
        json.dumps({key: value for key, value in config.items() if value is not None or key != "timestep_spacing"})
    )
    assert read_spec(model).schedule == read_spec(unsharded).schedule


@pytest.mark.parametrize(
    "name",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/tokenizer.json",
        "tokenizer/spiece.model",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "cogvideox.json",
    ],
)
def test_git_lfs_pointers_are_recognized(unsharded, tmp_path, name):
    model = copied(unsharded, tmp_path)
    file = model / name
    for weight in file.parent.glob("*.safetensors"):
        weight.unlink()
    if name == "tokenizer/spiece.model":
        (model / "tokenizer/tokenizer.json").unlink()
    file.write_text(POINTER)
    with pytest.raises(UserError) as caught:
        model_folder.load(model)
    assert str(caught.value).startswith(
        f"cannot read {file}: it is a Git LFS pointer, not the file itself; run `git lfs"
    )


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.ckpt"])
def test_a_single_file_that_is_a_git_lfs_pointer_is_recognized(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(UserError, match="it is a Git LFS pointer"):
        detect_checkpoint(tmp_path / name)


@pytest.mark.parametrize("shard", ["../vae/{}", "/{}", "{folder}/{}", "sub/{}", "..\\{}", ".."])
def test_an_index_may_only_name_files_of_its_folder(sharded, tmp_path, shard):
    model = copied(sharded, tmp_path)
    index = model / "transformer/diffusion_pytorch_model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    name = shard.format(sorted(weight_map.values())[0], folder=index.parent)
    (index.parent / "sub").mkdir()
    shutil.copy(index.parent / sorted(weight_map.values())[0], index.parent / "sub")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weight_map, name)}))
    with pytest.raises(UserError, match=r"must be in the folder of their index|missing next to it"):
        model_folder.load(model)


def test_shards_may_be_links_as_in_the_hub_cache(unsharded, sharded, tmp_path):
    model = copied(sharded, tmp_path)
    (tmp_path / "blobs").mkdir()
    for index, file in enumerate(sorted(model.glob("*/*"))):
        blob = tmp_path / "blobs" / str(index)
        file.rename(blob)
        file.symlink_to(f"../../blobs/{index}")
    assert_same_weights(model, unsharded)


def test_latest_of_a_sat_checkpoint_must_name_a_folder_next_to_it(tmp_path):
    (tmp_path / "sat").mkdir()
    (tmp_path / "sat/latest").write_text("../1000")
    with pytest.raises(UserError, match=r"latest: it must name a folder next to it, not '\.\./1000'"):
        detect_checkpoint(tmp_path / "sat")
