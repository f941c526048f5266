"""Commands, help texts and exit statuses."""

import re
import subprocess
import sys

import pytest
import torch

import cogvideox
from cogvideox.cli import doctor
from cogvideox.cli.main import COMMANDS


def test_help_lists_the_commands(run):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        result = run(*arguments)
        assert result.status == 0 and all(command in result.out for command in COMMANDS)


def test_version(run):
    assert run("--version").out == f"cogvideox {cogvideox.__version__}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from cogvideox.cli.main import main; assert main(sys.argv[1:]) == 0;"
        "heavy = {'torch', 'numpy', 'rich', 'av', 'tokenizers'} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: cogvideox" in result.stdout


def test_generate_help_lists_the_common_options_and_help_all_the_rest(run):
    common, all_options = (
        set(re.findall(r"(?<!\S)--?[\w-]+", run("generate", flag).out)) for flag in ("--help", "--help-all")
    )
    assert {"-o", "--model", "--image", "--video", "--num-frames", "--height", "--width", "--seed", "--lora"} <= common
    assert {"--num-inference-steps", "--guidance-scale", "--memory"} <= common and len(common) <= 20
    for flag in (
        *("-o", "--model", "--num-frames", "--height", "--width", "--num-inference-steps", "--guidance-scale"),
        *("--dynamic-guidance", "--sampler", "--seed", "--fps", "--num-videos", "--negative-prompt", "--device"),
        *("--dtype", "--compile", "--sheet", "--from", "--cache", "--window", "--extend", "--no-extend", "--plan"),
    ):
        assert flag in all_options, flag


def test_a_bug_keeps_its_traceback():
    """Only user errors are printed as one sentence."""
    code = "from cogvideox.cli import main; main.COMMANDS['bug'] = 'no such module'; main.main(['bug'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" in result.stderr


@pytest.mark.parametrize(
    "fill", [lambda: torch.empty(10**16), lambda: bytearray(2**62), lambda: fail(torch.OutOfMemoryError("CUDA"))]
)
def test_out_of_memory_anywhere_is_one_sentence(run, monkeypatch, fill):
    monkeypatch.setattr(doctor, "run", lambda arguments: fill())
    result = run("doctor")
    assert result.status == 2 and result.err.startswith("cogvideox: out of memory: ") and result.err.count("\n") == 1


def test_other_runtime_errors_keep_their_traceback(run, monkeypatch):
    monkeypatch.setattr(doctor, "run", lambda arguments: fail(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="do not match"):
        run("doctor")


@pytest.mark.parametrize("command", ["convert", "inspect", "encode", "doctor", "plot"])
def test_only_generate_suggests_quotes(run, command):
    result = run(command, "--surplus", *"abc")
    assert result.status == 2 and "quotes" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a ball", "--image", ""),
        ("generate", "a ball", "-o", ""),
        ("generate", "--from", ""),
        ("convert", "toybox", ""),
        ("encode", "", "--dry-run"),
        ("train", "toybox", "--out", ""),
        ("toybox", "--judge", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(run, workdir, arguments):
    result = run(*arguments)
    assert result.status == 2 and "the path is empty" in result.err and not list(workdir.iterdir())


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["generate", "x", "--steps", "5"], "did you mean --num-inference-steps?"),
        (["generate", "x", "--negative_prompt", "5"], "did you mean --negative-prompt?"),
        (["train", "lora", "--dataset", "x"], "did you mean --data?"),
    ],
)
def test_options_of_other_programs_lead_to_ours(run, arguments, suggestion):
    result = run(*arguments)
    assert result.status == 2 and suggestion in result.err
