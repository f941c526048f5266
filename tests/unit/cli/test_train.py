import subprocess
import sys

import pytest
import yaml

from cogvideox import config
from cogvideox.cli.main import main
from cogvideox.pretrained.model_spec import SETTINGS_FILE, read_spec
from cogvideox.training.recipes import GROUPS, RECIPES
from tests import tiny


def test_list_shows_all_recipes_by_purpose(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(RECIPES)
    assert [line for line in lines if line.endswith(":")] == [f"{purpose}:" for purpose in GROUPS]


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_settings_that_can_be_loaded(name, capsys):
    assert main(["train", name, "--dry-run", "optim.lr=3e-4", "run.num_steps=7"]) == 0
    printed = capsys.readouterr().out
    settings = config.from_dict(type(RECIPES[name]()), yaml.safe_load(printed))
    expected = config.override(RECIPES[name](), {"optim.lr": 3e-4, "run.num_steps": 7})
    if settings != expected:  # with the values of a model that is on this machine
        expected = expected.resolved(read_spec(expected.model).settings)
    assert settings == expected
    summary = [line.split()[1] for line in printed.splitlines() if line.startswith("# ")]
    assert summary[:3] == ["steps", "parameters", "memory"]


def test_a_policy_file_replaces_that_of_the_recipe(tmp_path, capsys):
    file = tmp_path / "policy.yaml"
    file.write_text("bounds: [{column: flow, at_least: {steps: [0, 50], values: [0.1, 0.2]}}]")
    assert main(["train", "toybox-quality", "--dry-run", "--policy", str(file)]) == 0
    policy = yaml.safe_load(capsys.readouterr().out)["policy"]
    assert [bound["column"] for bound in policy["bounds"]] == ["flow"] and policy["version"] == 1
    assert main(["train", "toybox", "--dry-run", "--policy", str(file)]) == 2
    assert "--policy selects encoded clips" in capsys.readouterr().err
    file.write_text("bounds: [{column: flow, least: 0.1}]")
    assert main(["train", "toybox-quality", "--dry-run", "--policy", str(file)]) == 2
    assert "unknown setting bounds[0].least" in capsys.readouterr().err


def test_dry_run_prints_the_values_of_the_model(tmp_path, capsys):
    model = tiny.write(tmp_path / "official", "5b")
    (model / SETTINGS_FILE).unlink()
    assert main(["train", "lora", "--dry-run", f"model={model}", "data=[]"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["null_text"], printed["norm_statistics"]) == ("zero", "clip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing the name of a recipe"),
        (["toybx"], "did you mean toybox"),
        (["toybox", "optim.weight_decai=1"], "did you mean optim.weight_decay"),
        (["toybox", "run.num_steps=many"], "run.num_steps must be an integer"),
        (["toybox", "run.num_steps=0"], "must be at least 1"),
        (["toybox", "lr"], "'lr' is not KEY=VALUE"),
        (["toybox", "optim.lr=1", "optim.lr=2"], "optim.lr is set twice, to 1 and 2"),
        (["toybox", "--max-seconds", "soon"], "--max-seconds"),
        (["toybox", "--max-seconds", "nan"], "--max-seconds nan must be at least 0"),
        (["toybox", "--max-seconds=-1"], "--max-seconds -1 must be at least 0"),
        (["toybox", "text_encoder.d_model=64"], "must equal"),
        (["toybox", "text_dropout=2"], "text_dropout=2.0 must be in [0, 1]"),
        (["toybox", "vae=no/such/folder", "--out", "never"], "no/such/folder"),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_recipes_import_no_torch():
    code = "import sys, cogvideox.training.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
