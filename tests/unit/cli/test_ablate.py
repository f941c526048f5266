"""`cogvideox ablate`: options, the list, and an ablation from start to report."""

import json
import os
import signal

import pytest

from cogvideox.ablation import registry
from cogvideox.cli.ablate import UNFINISHED, parse_duration
from cogvideox.cli.main import main
from cogvideox.dataset.latents import toybox_latents
from cogvideox.errors import UserError
from cogvideox.training.vae import trainer
from tests.unit.ablation.tiny_ablations import tiny


@pytest.fixture
def tiny_padding(monkeypatch):
    ablation = tiny("vae-padding")
    monkeypatch.setitem(registry.ABLATIONS, "vae-padding", lambda: ablation)


def test_the_list_names_all_ablations_and_arms(capsys):
    assert main(["ablate", "--list"]) == 0
    listed = capsys.readouterr().out
    for name in registry.ABLATIONS:
        assert f"\n{name} " in f"\n{listed}"
    assert "arms: strata of all clips; strata of 4 ranks; random" in listed


def test_an_ablation_ends_with_a_report(tiny_padding, tmp_path, capsys):
    assert main(["ablate", "vae-padding", "--seeds", "1", "--steps", "1", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vae-padding: 2 arms x 1 seed; they differ in model.time_padding"
    assert lines[1].startswith("  causal     1 steps, ")
    assert lines[3].startswith("predicted time of all runs, one after the other: 0.")
    assert lines[-1] == str(tmp_path / "report.md")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [arm["name"] for arm in report["arms"]] == ["causal", "symmetric"]


def test_a_stopped_ablation_exits_with_status_75(tiny_padding, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trainer, "train", lambda *given, **named: None)
    assert main(["ablate", "vae-padding", "--seeds", "1", "--steps", "1", "--out", str(tmp_path)]) == UNFINISHED
    assert "continue it with the same command" in capsys.readouterr().err


def test_a_signal_while_a_dry_run_encodes_clips_stops_before_the_next_batch(monkeypatch, tmp_path, capsys):
    ablation, pid, rendered, render = tiny("timesteps"), os.getpid(), [], toybox_latents.render_clips

    def render_then_signal(clips, indices):
        if len(indices) > 1:
            rendered.append(indices)
            os.kill(pid, signal.SIGTERM)
        return render(clips, indices)

    monkeypatch.setitem(registry.ABLATIONS, "timesteps", lambda: ablation)
    monkeypatch.setattr(toybox_latents, "render_clips", render_then_signal)
    arguments = ["ablate", "timesteps", "--dry-run", "--steps", "1", "--out", str(tmp_path)]
    assert main(arguments) == UNFINISHED
    assert "stopped before the first step: SIGTERM" in capsys.readouterr().err
    assert len(rendered) == 1 and not list(tmp_path.rglob("*.safetensors*"))
    assert not (tmp_path / "plan.json").exists()

    monkeypatch.undo()
    monkeypatch.setitem(registry.ABLATIONS, "timesteps", lambda: ablation)
    assert main(arguments) == 0
    assert "predicted time of all runs" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("45", 45)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "ten", "5d", "-1m"])
def test_other_durations_are_errors(text):
    with pytest.raises(UserError, match="write it as 90s, 20m or"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["timestep"], "unknown ablation 'timestep' (did you mean timesteps?)"),
        ([], "missing NAME"),
        (["timesteps", "--seeds", "0"], "--seeds 0 must be 1 or more"),
        (["timesteps", "--steps", "5", "--budget", "1m"], "both set the length of the runs"),
        (["timesteps", "--shard", "0/2", "--executor", "ray"], "remove --executor"),
        (["timesteps", "--shard", "2/2"], "shard 2/2 does not exist"),
    ],
)
def test_bad_options_are_one_sentence(arguments, message, capsys):
    assert main(["ablate", *arguments]) == 2
    assert message in capsys.readouterr().err
