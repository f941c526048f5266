"""Errors and output of a rank that was not started by `torchrun`, and of ranks other than 0."""

import pytest
import torch

from cogvideox.cli import train as command
from cogvideox.cli.main import main
from cogvideox.parallel.failure import claim_report, is_reported


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_without_the_store_of_torchrun_every_rank_prints_its_error(rank, monkeypatch, capsys):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert claim_report() and not is_reported()
    assert main(["train", "toybox-lora", "optim.learning_rat=1"]) == 2
    assert "optim.learning_rat" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False)])
def test_only_rank_0_prints_the_end_of_a_run_and_a_dry_run(rank, prints, monkeypatch, capsys, tmp_path):
    class Trainer:
        @staticmethod
        def train(*_args, **_options):
            return None

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(command, "_trainer", lambda _settings: Trainer)
    assert main(["train", "toybox-vae", "--out", str(tmp_path / "run")]) == command.UNFINISHED
    assert ("saved but not finished" in capsys.readouterr().err) == prints
    assert main(["train", "toybox-vae", "--dry-run"]) == 0
    assert bool(capsys.readouterr().out) == prints


@pytest.mark.parametrize(
    ("name", "value", "minimum"),
    [("WORLD_SIZE", "two", 1), ("WORLD_SIZE", "0", 1), ("RANK", "-1", 0), ("LOCAL_RANK", "1.5", 0)],
)
def test_invalid_environment_variables_are_rejected_by_name(name, value, minimum, monkeypatch, capsys, tmp_path):
    variables = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for variable, valid in variables.items():
        monkeypatch.setenv(variable, valid)
    monkeypatch.setenv(name, value)
    assert main(["train", "toybox-lora", "run.device=cpu", "--data", "clips", "--out", str(tmp_path / "run")]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert f"{name}={value!r} must be an integer of {minimum} or more" in error


def test_the_estimate_names_the_device_of_the_ranks(monkeypatch, capsys):
    """There are fewer GPUs than processes, so that the processes use the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert main(["train", "toybox-lora", "--dry-run", "data=[]", "run.batch_size=2"]) == 0
    assert "on CPU" in capsys.readouterr().out
