"""Files in PyTorch's format: state dicts are read without executing code."""

import argparse
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.state_dict.torch_io import open_pickle


@pytest.fixture
def state():
    return {"a.weight": torch.randn(6, 4), "b": torch.ones(3, dtype=torch.bfloat16)}


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Malicious:
    """An object whose pickle calls a function when loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrap", [[], ["module"], ["state_dict"], ["model", "state_dict"]], ids=".".join)
def test_a_nested_state_dict_is_found(tmp_path, state, wrap):
    content = state
    for key in reversed(wrap):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pt")
    stored = open_pickle(tmp_path / "x.pt")
    assert same_tensors(stored, state)
    assert same_tensors({name: stored.read_transient(name) for name in stored}, state)
    assert stored.meta["a.weight"].is_meta and stored.meta["b"].dtype == torch.bfloat16


def test_training_state_next_to_the_weights_is_ignored(tmp_path, state):
    """DeepSpeed and SAT also save RNG states, settings and shapes."""
    training_state = {
        "iteration": 1000,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),  # noqa: NPY002 - the state in SAT checkpoints
        "torch_rng_state": torch.get_rng_state(),
        "lr": np.float64(0.1),
        "args": argparse.Namespace(lr=0.1, betas=[0.9, 0.95]),
        "param_shapes": [{"a.weight": torch.Size([6, 4])}],
    }
    torch.save({"module": state, **training_state}, tmp_path / "x.pt")
    assert same_tensors(open_pickle(tmp_path / "x.pt"), state)


def test_files_from_old_torch_versions_are_read(tmp_path, state):
    torch.save({"module": state}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert same_tensors(open_pickle(tmp_path / "x.pt"), state)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_rejected(tmp_path, state, zip_format):
    trap = tmp_path / "trap"
    content = {"module": state, "more": Malicious(os.mkdir, str(trap))}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match=r"cannot read .*x\.pt: it would run code \(\w+\.mkdir\)") as caught:
        open_pickle(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_a_bare_pickle_that_would_run_code_is_rejected(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Malicious(os.mkdir, str(tmp_path / "trap")), protocol=2))
    with pytest.raises(UserError, match=r"x\.bin"):
        open_pickle(tmp_path / "x.bin")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("size", [0, 5, 300, -20])
def test_truncated_files_are_rejected(tmp_path, state, size):
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:size])
    with pytest.raises(UserError, match=r"x\.pt: it is truncated or not a PyTorch file"):
        open_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [[1, 2], {"module": {"step": 3}}, torch.ones(2)], ids=["list", "numbers", "tensor"])
def test_files_without_a_state_dict_are_rejected(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(
        UserError, match=r"x\.pt: it contains a (list|dict without tensors|Tensor) instead of a state dict"
    ):
        open_pickle(tmp_path / "x.pt")


def test_zero_3_checkpoints_are_rejected(tmp_path):
    torch.save({"module": {"a": torch.empty(0)}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"zero_to_fp32\.py"):
        open_pickle(tmp_path / "x.pt")


def test_missing_files_are_rejected(tmp_path):
    with pytest.raises(UserError, match="file not found"):
        open_pickle(tmp_path / "y.pt")


@pytest.mark.parametrize("name", ["data.pkl", "extra"])
def test_a_compressed_archive_is_rejected_without_being_unpacked(tmp_path, state, name):
    torch.save(state, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"x/{name}", bytes(2**24))
    assert (tmp_path / "x.pt").stat().st_size < 2**17
    with pytest.raises(UserError, match=r"cannot read .*x\.pt: compressed archives are not supported"):
        open_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_tensors_larger_than_their_file_or_without_values_are_rejected(tmp_path, state, zip_format):
    expanded, meta = torch.ones(1).expand(2**30, 2**10), torch.empty(9, device="meta")
    for tensor, message in ((expanded, "but the file has"), (meta, "big")):
        torch.save({**state, "big": tensor}, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
        with pytest.raises(UserError, match=f"cannot read .*{message}"):
            open_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_tied_and_expanded_tensors_are_read(tmp_path, state, zip_format):
    tied = {**state, "tied": state["a.weight"].t(), "expanded": torch.ones(1).expand(9)}
    torch.save(tied, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
    assert same_tensors(open_pickle(tmp_path / "x.pt"), tied)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_corrupted_pickles_raise_one_line_errors(tmp_path, state, zip_format):
    """Bytes anywhere in the pickle are changed, removed or repeated."""
    torch.save({"module": state, "lr": np.float64(0.1)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
    valid, rng, num_errors = (tmp_path / "x.pt").read_bytes(), random.Random(0), 0
    for _ in range(200):
        change = partial(corrupt, rng=rng)
        (tmp_path / "y.pt").write_bytes(rewrite_pickle(valid, change) if zip_format else change(valid))
        try:
            dict(open_pickle(tmp_path / "y.pt"))
        except UserError as error:
            num_errors += "\n" not in str(error) and str(tmp_path / "y.pt") in str(error)
    assert num_errors > 100


def corrupt(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 1, 4, 20))
    replacement = rng.choice((b"", rng.randbytes(length), data[start : start + 2 * length], b"\xff" * length))
    return data[:start] + replacement + data[start + length :]


def rewrite_pickle(archive: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return the archive with a modified `data.pkl` and valid checksums."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(output, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return output.getvalue()
