"""`tools/toybox_chain.py` without its training: arguments, the settings of each stage, and resuming."""

import shutil

import pytest

from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import read_spec
from tools import toybox_chain
from tools.toybox_chain import STAGES, main

FLOAT32, BFLOAT16 = {"float32": 2e9, "bfloat16": 1e9}, {"float32": 1e9, "bfloat16": 2e9}


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, dict[str, str]]]:
    """The recipe and the overrides of each training, which ends at once."""
    calls = []

    def train(recipe, overrides, *, out, resume, max_seconds):
        calls.append((recipe, overrides))
        out.mkdir(parents=True, exist_ok=True)
        return max_seconds is None

    monkeypatch.setattr(toybox_chain, "train", train)
    monkeypatch.setattr(toybox_chain, "write_base", lambda out: None)
    monkeypatch.setattr(toybox_chain, "measure_speeds", lambda: FLOAT32)
    return calls


def test_each_stage_continues_from_the_previous_one(calls, tmp_path):
    arguments = ["--out", str(tmp_path), "--num-prompts", "0"]
    changes = ["--set", "toybox-vae-1:run.num_steps=3", "--set", "toybox-vae-2:run.num_steps=4"]
    assert main([*arguments, *changes]) == 0
    assert [recipe for recipe, _ in calls] == [stage.recipe for stage in STAGES]
    overrides = dict(calls)
    assert overrides["toybox-vae-1"] == {"run.precision": "float32", "run.num_steps": "3"}
    vae_folder = str(tmp_path / "toybox-vae-1")
    assert overrides["toybox-vae-2"] == {"run.precision": "float32", "run.num_steps": "4", "init_from": vae_folder}
    assert overrides["toybox-pretrain-high"]["model"] == str(tmp_path / "toybox-pretrain-low/model")


def test_a_restarted_chain_skips_complete_stages_and_keeps_its_precision(calls, monkeypatch, tmp_path):
    arguments = ["--out", str(tmp_path), "--num-prompts", "0"]
    (tmp_path / "toybox-vae-1").mkdir()
    (tmp_path / "toybox-vae-1/complete").touch()
    assert main([*arguments, "--seconds-per-piece", "0"]) == 75
    monkeypatch.setattr(toybox_chain, "measure_speeds", lambda: BFLOAT16)
    assert main(arguments) == 0
    assert [recipe for recipe, _ in calls] == ["toybox-vae-2", *(stage.recipe for stage in STAGES[1:])]
    assert {overrides["run.precision"] for _, overrides in calls} == {"float32"}
    assert main(arguments) == 0 and len(calls) == len(STAGES)  # nothing is left to train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.num_steps=3", "--set run.num_steps=3 must be RECIPE:KEY=VALUE with one of the recipes toybox-vae-1"),
        ("toybox-vae:run.num_steps=3", "--set toybox-vae:run.num_steps=3 must be RECIPE:KEY=VALUE"),
        ("toybox-vae-1:run.num_steps", "'run.num_steps' is not KEY=VALUE"),
        ("toybox-vae-1:run.steps=3", "unknown setting run.steps"),
        ("toybox-vae-2:init_from=x", "--set toybox-vae-2:init_from is not allowed"),
    ],
)
def test_invalid_changes_are_rejected_before_anything_is_written(calls, capsys, tmp_path, change, message):
    assert main(["--out", str(tmp_path / "runs"), "--set", change]) == 2
    assert message in capsys.readouterr().err
    assert not calls and not (tmp_path / "runs").exists()


def test_a_damaged_precision_is_rejected(calls, capsys, tmp_path):
    (tmp_path / "precision").write_text("float16")
    assert main(["--out", str(tmp_path)]) == 2
    assert "must contain one of float32, bfloat16" in capsys.readouterr().err


def test_a_base_model_of_another_version_is_rejected(tmp_path):
    shutil.copytree(read_spec("toybox").path, tmp_path / "toybox-base/model")
    with pytest.raises(UserError, match="toybox-base/model was written by another version: remove it and"):
        toybox_chain.write_base(tmp_path)
