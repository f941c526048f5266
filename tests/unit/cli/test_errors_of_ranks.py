"""Errors and output of a rank that was not started by `torchrun`, and of ranks other than 0."""

import pytest

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
