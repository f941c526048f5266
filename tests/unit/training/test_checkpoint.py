import copy
import errno
import json
import os
import random
import resource
import shutil
from contextlib import suppress

import pytest
import torch
from torch import nn

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints, restore_run
from cogvideox.training.config import OptimSettings
from cogvideox.training.optim import optimizers
from cogvideox.training.optim.optimizers import build_adamw, optimizer_step
from cogvideox.training.toybox.trainer import build_model
from tests import tiny_runs


def trained_parts(seed: int) -> dict:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    optimizer = build_adamw([net], OptimSettings())
    for step in range(3):
        net(torch.randn(5, 4)).square().sum().backward()
        optimizer_step(optimizer, step, 10, OptimSettings())
    return {"net": net, "optimizer": optimizer}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def start_run(folder) -> None:
    """Write a run with a checkpoint after 5 steps."""
    checkpoints, done = restore_run(folder, OptimSettings(), {}, resume=False, keep=1)
    assert done == 0
    checkpoints.save(5, trained_parts(1))


def test_save_and_load_are_bit_exact(tmp_path):
    saved, other = trained_parts(1), trained_parts(2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, saved)
    assert checkpoints.load(other) == 7
    for name, part in saved.items():
        assert equal(part.state_dict(), other[name].state_dict())


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, keep=2), trained_parts(1)
    for step in (5, 10, 15):
        checkpoints.save(step, state)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["latest", "step-00000010", "step-00000015"]
    assert checkpoints.latest() == 15 and checkpoints.load(state, 10) == 10


def test_an_interrupted_save_is_ignored_and_removed(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, keep=1), trained_parts(1)
    checkpoints.save(5, state)
    (checkpoints.folder / "step-00000010.partial").mkdir()
    (checkpoints.folder / "step-00000015").mkdir()  # renamed, but `latest` was not updated
    assert checkpoints.latest() == 5 and checkpoints.load(state) == 5
    checkpoints.save(6, state)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["latest", "step-00000006"]


def test_files_of_the_user_are_kept(tmp_path):
    """Copies of checkpoints under any name, and targets of symbolic links."""
    checkpoints, state = Checkpoints(tmp_path, keep=1), trained_parts(1)
    checkpoints.save(5, state)
    copies = ["step-00000005.bak", "step-00000005-good", "step-5", "step-best"]
    for name in copies:
        shutil.copytree(checkpoints.path(5), checkpoints.folder / name)
    (target := tmp_path / "target.txt").write_text("text")
    for name in ("latest.partial", "step-00000006.partial"):
        (checkpoints.folder / name).symlink_to(target)
    with pytest.raises(UserError, match="step-00000006"):
        checkpoints.save(6, state)
    (checkpoints.folder / "latest").unlink()
    (checkpoints.folder / "latest").symlink_to(target)
    target.write_text("step-00000005")
    checkpoints.save(7, state)
    assert target.read_text() == "step-00000005" and checkpoints.latest() == 7
    assert {*copies} <= {path.name for path in checkpoints.folder.iterdir()}


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoints, state = Checkpoints(tmp_path), trained_parts(1)
    checkpoints.save(5, state)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="full"):
        checkpoints.save(6, state)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["latest", "step-00000005"]
    assert checkpoints.load(state) == 5


def test_a_file_size_limit_is_reported(tmp_path):
    checkpoints, old_limit = Checkpoints(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, old_limit[1]))
    try:
        with pytest.raises(UserError, match="step-00000005: the file would be larger than the system allows"):
            checkpoints.save(5, trained_parts(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
    assert list(checkpoints.folder.iterdir()) == []


def test_nonfinite_weights_are_not_saved(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), trained_parts(1)
    checkpoints.save(5, state)
    with torch.no_grad():
        state["net"][0].weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="finite"):
        checkpoints.save(6, state)
    assert checkpoints.latest() == 5


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_a_damaged_checkpoint_is_reported(tmp_path, damage):
    checkpoints, state = Checkpoints(tmp_path), trained_parts(1)
    file = checkpoints.save(5, state) / "tensors.safetensors"
    match damage:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-8])
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.load(state)


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_every_flipped_bit_is_detected(tmp_path, file):
    checkpoints, state = Checkpoints(tmp_path), trained_parts(1)
    path = checkpoints.save(5, state) / file
    original, rng = path.read_bytes(), random.Random(0)
    for position in (0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(60))):
        damaged = bytearray(original)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"the checkpoint .* cannot be read: "):
            checkpoints.load(state)
    path.write_bytes(original)
    assert checkpoints.load(state) == 5


def test_a_checkpoint_of_a_version_without_checksums_is_read(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), trained_parts(1)
    file = checkpoints.save(5, state) / "state.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({"step": 5, "parts": document["parts"], "files": [*document["files"]]}))
    assert checkpoints.load(state) == 5


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_state_raises_a_user_error(tmp_path, seed):
    """Random values are replaced in a `state.json` without checksums."""
    checkpoints, state, rng = Checkpoints(tmp_path), trained_parts(1), random.Random(seed)
    file = checkpoints.save(5, state) / "state.json"
    document = {**json.loads(file.read_text()), "files": ["tensors.safetensors"]}
    del document["checksum"]
    for _ in range(50):
        damaged = copy.deepcopy(document)
        for _ in range(rng.randrange(1, 4)):
            node = rng.choice([value for value in walk(damaged) if isinstance(value, dict | list) and value])
            key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
            node[key] = rng.choice(
                [None, -1, 1e400, "x", [], {}, {"tensor": "x"}, {"dict": 3}, [[[]]], copy.deepcopy(document)]
            )
        file.write_text(json.dumps(damaged))
        with suppress(UserError):
            checkpoints.load(trained_parts(1))


def walk(value):
    """Yield all values in a tree of dicts and lists."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


@pytest.mark.parametrize("text", ["", "step", "step--0000001", "step-1", "step-00000005.partial", "../x", "\xff" * 99])
def test_an_invalid_name_in_the_latest_file_is_reported(tmp_path, text):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, trained_parts(1))
    (checkpoints.folder / "latest").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="latest is damaged"):
        checkpoints.latest()


def test_damaged_settings_are_reported(tmp_path):
    start_run(tmp_path)
    (tmp_path / "settings.yaml").write_text("lr: [")
    with pytest.raises(UserError, match=r"cannot read .*settings\.yaml"):
        restore_run(tmp_path, OptimSettings(), trained_parts(1), resume=True, keep=1)


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    start_run(tmp_path)
    state = trained_parts(2)
    _, done = restore_run(tmp_path, OptimSettings(lr=1e-4), state, resume=True, keep=1)
    assert done == 5 and equal(state["net"].state_dict(), trained_parts(1)["net"].state_dict())
    assert "lr: 0.0001" in (tmp_path / "settings.yaml").read_text()


@pytest.mark.parametrize("folder", [".", "checkpoints", "vae", "model/transformer"])
def test_a_resumed_run_removes_temporary_files(tmp_path, folder):
    start_run(tmp_path)
    with atomic_write(tmp_path / folder / "config.json") as temporary:
        temporary.touch()
    temporary.touch()  # as if the process had been killed in the block
    restore_run(tmp_path, OptimSettings(), trained_parts(0), resume=True, keep=1)
    assert (tmp_path / folder / "config.json").exists() and not temporary.exists()


def test_a_failed_resume_keeps_the_settings_file(tmp_path):
    start_run(tmp_path)
    before = (tmp_path / "settings.yaml").read_text()
    other = {"net": nn.Linear(4, 4), "optimizer": trained_parts(1)["optimizer"]}
    with pytest.raises(UserError, match="does not match"):
        restore_run(tmp_path, OptimSettings(lr=1e-4), other, resume=True, keep=1)
    assert (tmp_path / "settings.yaml").read_text() == before


def test_the_checkpoint_of_another_model_is_rejected(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, trained_parts(1))
    with pytest.raises(UserError, match="does not match"):
        checkpoints.load({"net": nn.Linear(4, 4), "optimizer": trained_parts(1)["optimizer"]})
    with pytest.raises(UserError, match="contains"):
        checkpoints.load({"net": nn.Linear(4, 4)})


@pytest.mark.parametrize("names", [("muon", "adamw"), ("adamw", "muon")])
def test_the_checkpoint_of_another_optimizer_is_rejected(tmp_path, names):
    model = build_model(tiny_runs.toybox_run(tmp_path))
    saved, current = ({"optimizer": optimizers.build_optimizer([model], OptimSettings(name=name))} for name in names)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, saved)
    with pytest.raises(UserError, match="does not match this run's optimizer"):
        checkpoints.load(current)


def test_a_file_in_place_of_the_run_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot read"):
        Checkpoints(tmp_path / "file").latest()


def test_loading_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoints(tmp_path).load({})
