import json
import resource

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.state_dict.safetensors_io import load_state, save_state


@pytest.fixture
def state():
    return {f"layer.{i}.weight": torch.randn(8, 4) for i in range(6)} | {"scale": torch.ones(3, dtype=torch.bfloat16)}


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def file_names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_saved_file_is_loaded_unchanged(tmp_path, state):
    path = tmp_path / "new" / "x.safetensors"
    save_state(state, path, metadata={"about": "test"})
    assert same_tensors(load_state(path), state)
    assert same_tensors(load_state(path.parent), state)
    assert file_names(path.parent) == ["x.safetensors"]


def test_a_saved_file_has_the_default_permissions(tmp_path, state):
    (tmp_path / "plain").touch()
    save_state(state, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_shards_have_the_diffusers_layout_and_are_loaded_unchanged(tmp_path, state):
    save_state(state, tmp_path / "x.safetensors", max_shard_bytes=300)
    index = json.loads((tmp_path / "x.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 6 * 128 + 6
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"x-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert file_names(tmp_path) == [*shards, "x.safetensors.index.json"]
    assert same_tensors(load_state(tmp_path), state)
    assert same_tensors(load_state(tmp_path / "x.safetensors.index.json"), state)


def test_saving_a_single_file_removes_old_shards_and_vice_versa(tmp_path, state):
    path = tmp_path / "x.safetensors"
    save_state(state, path, max_shard_bytes=300)
    (tmp_path / "other.safetensors.txt").touch()
    save_state(state, path)
    assert file_names(tmp_path) == ["other.safetensors.txt", "x.safetensors"]
    save_state(state, path, max_shard_bytes=500)
    assert not path.exists()
    assert same_tensors(load_state(tmp_path), state)


def test_views_and_transposed_tensors_are_saved_and_loaded_unchanged(tmp_path):
    qkv = torch.arange(12.0).reshape(6, 2)
    parts = dict(zip("qkv", qkv.chunk(3), strict=True)) | {"t": torch.ones(2, 3).T}
    save_state(parts, tmp_path / "x.safetensors")
    assert same_tensors(load_state(tmp_path), parts)


def test_writing_to_a_loaded_tensor_does_not_change_the_file(tmp_path, state):
    path = tmp_path / "x.safetensors"
    save_state(state, path)
    load_state(path)["layer.0.weight"].zero_()
    assert same_tensors(load_state(path), state)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_files_are_rejected(tmp_path, state, size):
    path = tmp_path / "x.safetensors"
    save_state(state, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"x\.safetensors: it is truncated or not a safetensors file"):
        load_state(path)


def test_paths_without_a_single_weights_file_are_rejected(tmp_path):
    with pytest.raises(UserError, match="file not found"):
        load_state(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no weights found in"):
        load_state(tmp_path)
    (tmp_path / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        load_state(tmp_path)
    (tmp_path / "y.safetensors").touch()
    with pytest.raises(UserError, match="several weights files: pass one of"):
        load_state(tmp_path)


def test_missing_or_incomplete_shards_and_invalid_indices_are_rejected(tmp_path, state):
    save_state(state, tmp_path / "x.safetensors", max_shard_bytes=300)
    (tmp_path / "x-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 shard missing next to it \(x-00002-of-00003\.safetensors\)"):
        load_state(tmp_path)
    save_state({"a": torch.ones(1)}, tmp_path / "x-00002-of-00003.safetensors")
    with pytest.raises(UserError, match=r"2 tensors missing in x-00002-of-00003\.safetensors"):
        load_state(tmp_path)
    for content in ("{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'):
        (tmp_path / "x.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match="not an index"):
            load_state(tmp_path)


def test_a_failed_save_leaves_only_the_old_file(tmp_path, state):
    path = tmp_path / "x.safetensors"
    save_state(state, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # writes fail after 20 kB
    try:
        for shard in (None, 12_000):
            too_large = {"a": torch.ones(1000), "b": torch.ones(1000, 10)}
            with pytest.raises(UserError, match=r"cannot write .*: the file would be larger than the system allows"):
                save_state(too_large, path, max_shard_bytes=shard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file_names(tmp_path) == ["x.safetensors"]
    assert same_tensors(load_state(path), state)


def test_saving_below_a_file_instead_of_a_folder_is_rejected(tmp_path, state):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="part of its path is a file"):
        save_state(state, tmp_path / "file" / "x.safetensors")
