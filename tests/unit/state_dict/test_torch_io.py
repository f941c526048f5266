"""Files in PyTorch's format: the state dict is read, and no code is executed."""

import argparse
import os
import pickle
import random

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.state_dict.torch_io import open_pickle


@pytest.fixture
def state():
    return {"a.weight": torch.randn(6, 4), "b": torch.ones(3, dtype=torch.bfloat16)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Evil:
    """Its pickle calls a function when it is loaded."""

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
    assert same(stored, state)
    assert same({name: stored.read_transient(name) for name in stored}, state)
    assert stored.meta["a.weight"].is_meta and stored.meta["b"].dtype == torch.bfloat16


def test_training_state_next_to_the_weights_is_ignored(tmp_path, state):
    """DeepSpeed and SAT store random generator states, settings and shapes."""
    beside = {
        "iteration": 1000,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),  # noqa: NPY002 - the one that is stored
        "torch_rng_state": torch.get_rng_state(),
        "lr": np.float64(0.1),
        "args": argparse.Namespace(lr=0.1, betas=[0.9, 0.95]),
        "param_shapes": [{"a.weight": torch.Size([6, 4])}],
    }
    torch.save({"module": state, **beside}, tmp_path / "x.pt")
    assert same(open_pickle(tmp_path / "x.pt"), state)


def test_files_of_old_torch_versions_are_read(tmp_path, state):
    torch.save({"module": state}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert same(open_pickle(tmp_path / "x.pt"), state)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_pickle_that_would_run_code_is_rejected(tmp_path, state, new):
    trap = tmp_path / "trap"
    content = {"module": state, "more": Evil(os.mkdir, str(trap))}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=r"x\.pt is refused: reading it would run code \(\w+\.mkdir\)") as caught:
        open_pickle(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_a_bare_pickle_that_would_run_code_is_rejected(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Evil(os.mkdir, str(tmp_path / "trap")), protocol=2))
    with pytest.raises(UserError, match=r"x\.bin"):
        open_pickle(tmp_path / "x.bin")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("size", [0, 5, 300, -20])
def test_an_error_names_a_truncated_file(tmp_path, state, size):
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:size])
    with pytest.raises(UserError, match=r"x\.pt: it is truncated or not a PyTorch file"):
        open_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [[1, 2], {"module": {"step": 3}}, torch.ones(2)], ids=["list", "numbers", "tensor"])
def test_an_error_names_a_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(
        UserError, match=r"x\.pt: it contains a (list|dict without tensors|Tensor) instead of a state dict"
    ):
        open_pickle(tmp_path / "x.pt")


def test_zero_3_checkpoints_are_rejected(tmp_path):
    torch.save({"module": {"a": torch.empty(0)}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"zero_to_fp32\.py"):
        open_pickle(tmp_path / "x.pt")
    with pytest.raises(UserError, match="there is no such file"):
        open_pickle(tmp_path / "y.pt")
