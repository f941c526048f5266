import subprocess
import sys

import pytest
import yaml

from cogvideox import config
from cogvideox.cli.main import main
from cogvideox.cli.train import train
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import SETTINGS_FILE, read_spec
from cogvideox.training.config_file import load_settings
from cogvideox.training.recipes import GROUPS, RECIPES
from tests import tiny
from tests.unit.dataset import clips


def test_list_shows_all_recipes_by_purpose(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(RECIPES)
    assert [line for line in lines if line.endswith(":")] == [f"{purpose}:" for purpose in GROUPS]


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_settings_that_can_be_loaded(name, capsys):
    status = main(["train", name, "--dry-run", "optim.lr=3e-4", "run.num_steps=7"])
    printed = capsys.readouterr().out
    settings = config.from_dict(type(RECIPES[name]()), yaml.safe_load(printed))
    expected = config.override(RECIPES[name](), {"optim.lr": 3e-4, "run.num_steps": 7})
    if settings != expected:  # with the values of a model that is on this machine
        expected = expected.resolved(read_spec(expected.model).settings)
    assert settings == expected
    summary = [line.split()[1] for line in printed.splitlines() if line.startswith("# ")]
    assert summary[:3] == ["steps", "parameters", "memory"]
    assert (status, "# fits on this machine" in printed) in ((0, True), (1, False))
    assert ("# does not fit here: " in printed) == (status == 1)


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
    assert main(["train", "lora", "--dry-run", f"model={model}", "data=[]"]) in (0, 1)
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
        (["toybox", "optim.learning_rate=1"], "unknown setting optim.learning_rate (did you mean optim.lr?)"),
        (["toybox", "max_train_steps=1"], "unknown setting max_train_steps (did you mean run.num_steps?)"),
        (["toybox-lora", "learning_rate=1"], "unknown setting learning_rate (did you mean optim.lr?)"),
        (["toybox-lora", "--learning-rate", "1"], "unknown option --learning-rate (did you mean optim.lr=VALUE?)"),
        (["toybox-lora", "--lr=1"], "unknown option --lr (did you mean optim.lr=VALUE?)"),
        (["toybox-lora", "--dri-run"], "unknown option --dri-run (did you mean --dry-run?)"),
        (["--config", "gone.yaml"], "gone.yaml"),
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


def test_a_config_file_is_the_settings_of_a_run_or_changes_a_recipe(tmp_path, capsys):
    expected = config.override(RECIPES["toybox-lora"](), {"optim.lr": 1e-5, "run.num_steps": 7})
    config.save(expected, tmp_path / "settings.yaml")
    (tmp_path / "some.yaml").write_text("optim: {lr: 1e-5}\nrun: {num_steps: 7}\n")
    for arguments in (["--config", "settings.yaml"], ["toybox-lora", "--config", "some.yaml"]):
        arguments[-1] = str(tmp_path / arguments[-1])
        assert main(["train", *arguments, "--dry-run", "optim.eps=1e-6"]) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        actual = config.from_dict(type(expected), printed | {"norm_statistics": None, "null_text": None})
        assert actual == config.override(expected, {"optim.eps": 1e-6})


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_every_recipe_can_be_loaded_without_its_name(name, tmp_path):
    config.save(RECIPES[name](), tmp_path / "x.yaml")
    assert load_settings(tmp_path / "x.yaml", None) == RECIPES[name]()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: {lr: 1e-5}", "has only some of the settings of a run: name the recipe"),
        ("- 1", "has no settings"),
        ("", "has no settings"),
    ],
)
def test_an_incomplete_config_file(content, message, tmp_path, capsys):
    file = tmp_path / "x.yaml"
    file.write_text(content)
    assert main(["train", "--config", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_setting_in_a_config_file(tmp_path, capsys):
    file = tmp_path / "x.yaml"
    data = config.to_dict(RECIPES["toybox-lora"]()) | {"image_shares": 1}
    file.write_text(yaml.safe_dump(data))
    assert main(["train", "--config", str(file)]) == 2
    assert "unknown setting image_shares" in capsys.readouterr().err
    file.write_text("optim: {learning: 1}")
    assert main(["train", "toybox", "--config", str(file)]) == 2
    assert f"{file}: unknown setting optim.learning" in capsys.readouterr().err
    file.write_text("optim: {learning_rate: 1}")
    assert main(["train", "toybox", "--config", str(file)]) == 2
    assert f"{file}: unknown setting optim.learning_rate (did you mean optim.lr?)" in capsys.readouterr().err


def test_the_settings_file_of_another_run_needs_a_new_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config.save(RECIPES["toybox-lora"](), tmp_path / "settings.yaml")
    assert main(["train", "--config", "settings.yaml"]) == 2
    assert "missing --out FOLDER" in capsys.readouterr().err


def test_dry_run_names_unusable_clips_and_settings_that_do_not_suit_the_data(tmp_path, capsys):
    clips.video(tmp_path / "clips/a.mp4", "a ball")
    clips.video(tmp_path / "clips/b.mp4", "a ball", seed=1)
    (tmp_path / "clips/b.mp4").write_bytes(b"damaged")
    data = ["--data", str(tmp_path / "clips")]
    assert main(["train", "toybox-lora", *data, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "#   " in printed and "b.mp4: it is damaged" in printed and "# fits on this machine" in printed
    for override, message in (
        ("image_fraction=0.2", "set image_fraction=none, or add images"),
        ("row_tokens=20", "set row_tokens="),
        ("policy.bounds=[{column: quality, best: 0.2}]", "bound on unknown column quality"),
        (
            "policy.bounds=[{column: num_frames, at_least: 99, from_step: 10}]",
            "from step 10 on, the policy keeps no clips",
        ),
        (
            "samples.prompts=[a horse gallops over the extraordinarily picturesque hills of Montenegro]",
            "samples of 'a horse",
        ),
        ("samples.num_inference_steps=2000", "samples of 'a large red ball"),
    ):
        for dry_run in (["--dry-run"], ["--out", str(tmp_path / "run")]):
            assert main(["train", "toybox-lora", *data, override, *dry_run]) == 2
            assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/stores/*"))


def test_dry_run_estimates_without_clips(tmp_path, capsys):
    assert main(["train", "toybox-i2v", "--dry-run"]) in (0, 1)  # image_fraction=0, and no data yet
    assert "# memory" in capsys.readouterr().out
    assert main(["train", "toybox-lora", "--data", str(tmp_path / "gone"), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert "# memory" in captured.out and "gone does not exist" in captured.err


def test_a_compiled_run_that_does_not_fit_has_no_unsupported_suggestions(capsys, monkeypatch):
    monkeypatch.setattr("cogvideox.pretrained.offload.hardware.main_memory", lambda: (2**34, 2**34))
    assert main(["train", "lora", "--dry-run", "run.compile=true", "run.device=cpu", "data=[]"]) == 1
    captured = capsys.readouterr()
    assert "# does not fit here: " in captured.out and "base_weights=int8 (" not in captured.out and not captured.err


@pytest.mark.parametrize(
    ("world", "changes", "message"),
    [
        ("2", {"lora.base_weights": "nf4"}, "lora.base_weights=nf4 supports a single process only"),
        ("2", {"optim.moments": "8bit"}, "optim.moments=8bit supports a single process only"),
        ("1", {"sequence": "2", "lora.base_weights": "int8"}, "sequence=2 does not support lora.base_weights=int8"),
    ],
)
def test_dry_run_rejects_settings_that_do_not_support_the_processes(world, changes, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=message):
        train("toybox-lora", {"run.device": "cpu"} | changes, dry_run=True)


def test_a_run_that_does_not_fit_exits_with_status_1(capsys):
    assert main(["train", "pretrain-768", "--dry-run", "sequence=1", "run.device=cpu"]) == 1
    printed = capsys.readouterr().out
    assert "# does not fit here: the run needs" in printed and yaml.safe_load(printed)["sequence"] == 1
