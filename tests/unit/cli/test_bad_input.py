"""User errors: exit status 2, one sentence on stderr, no files written."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

PROMPT = "a red ball moves to the right on a blue floor"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"

# Arguments after `cogvideox generate PROMPT -o x.mp4 --model MODEL`, and part of the error message.
VALUES = {
    "a height that patches do not divide": (["--height", "40"], "multiple of 16"),
    "a width of 0": (["--width", "0"], "16"),
    "a negative height": (["--height", "-16"], "16"),
    "a height with a fraction": (["--height", "32.5"], "32.5"),
    "a number of frames that is not 4k+1": (["--num-frames", "10"], "9"),
    "no frames": (["--num-frames", "0"], "1"),
    "frames in words": (["--num-frames", "nine"], "nine"),
    "no steps": (["--num-inference-steps", "0"], "nearest is 1"),
    "more steps than timesteps": (["--num-inference-steps", "2000"], "1000"),
    "guidance below 1": (["--guidance-scale", "0.2"], "nearest is 1"),
    "guidance that is not a number": (["--guidance-scale", "nan"], "--guidance-scale"),
    "an unknown sampler": (["--sampler", "euler"], "ddim, dpm++"),
    "a negative seed": (["--seed", "-1"], "nearest is 0"),
    "a seed that is too large": (["--seed", str(2**70)], "seed"),
    "a seed in words": (["--seed", "lucky"], "lucky"),
    "no videos": (["--num-videos", "0"], "1 or more"),
    "a number of videos in words": (["--num-videos", "two"], "--num-videos 'two' must be an integer"),
    "a frame rate of 0": (["--fps", "0"], "fps"),
    "an unknown device": (["--device", "warp"], "warp"),
    "the meta device": (["--device", "meta"], "meta"),
    "a missing device": (["--device", "cuda:99"], "cuda:99"),
    "an unknown dtype": (["--dtype", "float64"], "float64"),
    "an unknown storage": (["--weights", "int4"], "exact, int8, fp8"),
    "a negative prompt without guidance": (["--guidance-scale", "1", "--negative-prompt", "x"], "no effect"),
    "a misspelt option": (["--heigth", "32"], "did you mean --height?"),
    "an abbreviated option": (["--num-inf", "3"], "--num-inf"),
    "a prompt without quotes": (["ball"], "quotes"),
    "an option without its value": (["--seed"], "--seed"),
    "a file that is no video": (["-o", "x.avi"], ".mp4"),
    "a file without an ending": (["-o", "x"], ".mp4"),
    "a name that is too long": (["-o", "x" * 300 + ".mp4"], "its name is too long"),
    "a name too long for the metadata": (["-o", "x" * 251 + ".mp4"], ".json: its name is too long"),
    "a name too long for the sheet": (["-o", "x" * 250 + ".mp4", "--sheet"], ".png: its name is too long"),
    "a folder that cannot be written to": (["-o", "/sys/x.mp4"], "cannot write /sys/x.mp4"),
    "a missing sidecar": (["--from", "gone.json"], "gone.json"),
}

PROMPTS = {
    "an empty prompt": ("", "empty"),
    "a prompt of spaces": (" \n ", "empty"),
    "a prompt that is too long": ("ball " * 40, "41 tokens"),
}


def rewrite(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


def poison(state: dict[str, torch.Tensor]) -> None:
    state["proj_out.weight"][0, 0] = float("nan")


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["proj_out.weight"] = state["proj_out.weight"][:-1].clone()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64])


# Damage to the model folder, and part of the error message.
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda m: (m / "model_index.json").unlink(), "model_index.json"),
    "no weights": (lambda m: (m / TRANSFORMER).unlink(), "missing"),
    "no configuration": (lambda m: (m / "vae/config.json").unlink(), "vae/config.json"),
    "no tokenizer": (lambda m: shutil.rmtree(m / "tokenizer"), "tokenizer"),
    "no scheduler": (lambda m: shutil.rmtree(m / "scheduler"), "scheduler"),
    "truncated weights": (lambda m: truncate(m / TRANSFORMER), TRANSFORMER),
    "weights that are not a weight file": (lambda m: (m / TRANSFORMER).write_text("not found"), TRANSFORMER),
    "empty weights": (lambda m: (m / "vae/diffusion_pytorch_model.safetensors").write_bytes(b""), "vae"),
    "NaN in the weights": (lambda m: change_weights(m / TRANSFORMER, poison), "NaN"),
    "a missing tensor": (lambda m: change_weights(m / TRANSFORMER, lambda s: s.pop("proj_out.bias")), "bias"),
    "an unknown tensor": (lambda m: change_weights(m / TRANSFORMER, lambda s: s.update(x=torch.ones(1))), "x"),
    "a tensor with the wrong shape": (lambda m: change_weights(m / TRANSFORMER, reshape), "weight"),
    "damaged JSON": (lambda m: (m / "transformer/config.json").write_text("{"), "transformer/config.json"),
    "JSON of another kind": (lambda m: (m / "vae/config.json").write_text("[]"), "vae/config.json"),
    "an unknown key": (lambda m: rewrite(m / "transformer/config.json", num_layer=3), "num_layer"),
    "an unknown setting": (lambda m: rewrite(m / "cogvideox.json", fsp=3), "fsp"),
    "a setting with the wrong type": (lambda m: rewrite(m / "cogvideox.json", fps="slow"), "fps"),
    "another scheduler": (lambda m: rewrite(m / "scheduler/scheduler_config.json", _class_name="Euler"), "Euler"),
    "parts that do not fit": (lambda m: rewrite(m / "vae/config.json", latent_channels=8), "do not match"),
}


def assert_error(result, folder: Path, word: str, before: set[Path]) -> None:
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1 and result.err.startswith("cogvideox: ") and "Traceback" not in result.err
    assert word in result.err
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize("name", VALUES)
def test_invalid_values_are_rejected(run, model, workdir, name):
    arguments, word = VALUES[name]
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, *arguments)
    assert_error(result, workdir, word, set())


@pytest.mark.parametrize("name", PROMPTS)
def test_invalid_prompts_are_rejected(run, model, workdir, name):
    prompt, word = PROMPTS[name]
    assert_error(run("generate", prompt, "-o", "x.mp4", "--model", model), workdir, word, set())


@pytest.mark.parametrize("name", FOLDERS)
def test_broken_model_folders_are_rejected(run, model, workdir, tmp_path, name):
    damage, word = FOLDERS[name]
    broken = shutil.copytree(model, tmp_path / "broken")
    damage(broken)
    assert_error(run("generate", PROMPT, "-o", "x.mp4", "--model", broken), workdir, word, set())


@pytest.mark.parametrize("name", ["nothing", "THUDM/CogVideoX-2b", ".", "/", "~no-such-user/model"])
def test_unknown_models_are_rejected(run, workdir, name):
    assert_error(run("generate", PROMPT, "-o", "x.mp4", "--model", name), workdir, name, set())


def test_unknown_commands_are_rejected(run, workdir):
    assert_error(run("generat", PROMPT), workdir, "did you mean generate?", set())


def test_unwritable_outputs_are_rejected(run, model, workdir):
    (workdir / "folder.mp4").mkdir()
    (workdir / "file").write_text("mine")
    (workdir / "taken.json").write_text('{"mine": true}')
    (workdir / "sheet-sheet.png").mkdir()
    before = set(workdir.rglob("*"))
    for arguments, word in (
        (["-o", "folder.mp4", "--num-videos", "0"], "1 or more"),
        (["-o", "file/x.mp4"], "is a file, not a folder"),
        (["-o", "taken.mp4"], "taken.json"),
        (["-o", "sheet.mp4", "--sheet"], "folder"),
    ):
        assert_error(run("generate", PROMPT, "--model", model, *arguments), workdir, word, before)
    assert (workdir / "taken.json").read_text() == '{"mine": true}'


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "x.json"),
        ("[1]", "x.json"),
        ('{"prompt": "a"}', "x.json"),
        ('{"seeed": 1}', "seeed"),
        ("\udcff", "x.json: it is not UTF-8 text"),
    ],
    ids=["empty", "a list", "incomplete", "unknown key", "no text"],
)
def test_broken_sidecars_are_rejected(run, workdir, content, word):
    (workdir / "x.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    assert_error(run("generate", "--from", "x.json", "-o", "y.mp4"), workdir, word, {workdir / "x.json"})


def test_a_sidecar_of_a_missing_model_is_rejected(run, model, workdir, tmp_path):
    moved = shutil.copytree(model, tmp_path / "moved")
    assert run("generate", PROMPT, "-o", "x.mp4", "--model", moved).status == 0
    shutil.rmtree(moved)
    assert_error(run("generate", "--from", "x.json", "-o", "y.mp4"), workdir, str(moved), set(workdir.iterdir()))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_rejected(run, model, workdir):
    workdir.chmod(0o500)
    try:
        result = run("generate", PROMPT, "-o", "x.mp4", "--model", model)
        assert_error(result, workdir, "permission", set())
    finally:
        workdir.chmod(0o700)


def test_a_failed_write_leaves_no_partial_files(model, workdir):
    """A limit on file sizes simulates a disk that fills up after the checks: both make `write` fail."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    command = [sys.executable, "-m", "cogvideox", "generate", PROMPT, "-o", "x.mp4", "--model", str(model)]
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=env, cwd=workdir)
    assert result.returncode == 2, result
    assert result.stderr.count("\n") == 1 and "x.mp4" in result.stderr
    assert list(workdir.iterdir()) == []
