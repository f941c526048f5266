import subprocess
import sys

import pytest
import yaml

from cogvideox import config
from cogvideox.cli.main import main
from cogvideox.training.recipes import GROUPS, RECIPES


def test_list(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(RECIPES)
    assert [line for line in lines if line.endswith(":")] == [f"{purpose}:" for purpose in GROUPS]


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_settings_that_load(name, capsys):
    assert main(["train", name, "--dry-run", "optim.lr=3e-4", "run.num_steps=7"]) == 0
    said = capsys.readouterr().out
    settings = config.from_dict(type(RECIPES[name]()), yaml.safe_load(said))
    assert settings == config.override(RECIPES[name](), {"optim.lr": 3e-4, "run.num_steps": 7})
    account = [line.split()[1] for line in said.splitlines() if line.startswith("# ")]
    assert account[:3] == ["steps", "parameters", "memory"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "which recipe?"),
        (["toybx"], "did you mean toybox"),
        (["toybox", "optim.weight_decai=1"], "did you mean optim.weight_decay"),
        (["toybox", "run.num_steps=many"], "run.num_steps must be an integer"),
        (["toybox", "run.num_steps=0"], "smallest legal value, 1"),
        (["toybox", "lr"], "'lr' is no setting"),
        (["toybox", "optim.lr=1", "optim.lr=2"], "optim.lr is changed twice, to 1 and to 2"),
        (["toybox", "--max-seconds", "soon"], "--max-seconds"),
        (["toybox", "--max-seconds", "nan"], "--max-seconds nan is below the smallest legal value, 0"),
        (["toybox", "--max-seconds=-1"], "--max-seconds -1 is below"),
        (["toybox", "text_encoder.d_model=64"], "has to equal"),
        (["toybox", "text_dropout=2"], "text_dropout=2.0 is not in [0, 1]"),
        (["toybox", "vae=/no/such/folder", "--out", "/tmp/never"], "/no/such/folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_recipes_import_no_torch():
    code = "import sys, cogvideox.training.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
