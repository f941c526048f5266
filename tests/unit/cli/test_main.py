"""Verbs, help and exit statuses."""

import subprocess
import sys

import pytest
import torch

import cogvideox
from cogvideox.cli import doctor
from cogvideox.cli.main import VERBS


def test_help_lists_the_verbs(run):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        ran = run(*arguments)
        assert ran.status == 0 and all(verb in ran.out for verb in VERBS)


def test_version(run):
    assert run("--version").out == f"cogvideox {cogvideox.__version__}\n"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys; from cogvideox.cli.main import main; assert main(sys.argv[1:]) == 0;"
        "heavy = {'torch', 'numpy', 'rich', 'av', 'tokenizers'} & set(sys.modules); assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code, *verb.split(), "--help"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "usage: cogvideox" in ran.stdout


def test_generate_help_names_every_flag_of_the_pipeline(run):
    words = run("generate", "--help").out.split()
    for flag in (
        *("-o", "--model", "--num-frames", "--height", "--width", "--num-inference-steps", "--guidance-scale"),
        *("--dynamic-guidance", "--sampler", "--seed", "--fps", "--num-videos", "--negative-prompt", "--device"),
        *("--dtype", "--compile", "--sheet", "--from"),
    ):
        assert any(word.strip("[],") == flag for word in words), flag


def test_a_bug_keeps_its_traceback():
    """Only what a user can cause is reduced to a sentence."""
    code = "from cogvideox.cli import main; main.VERBS['bug'] = 'no such module'; main.main(['bug'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and "Traceback" in ran.stderr


@pytest.mark.parametrize(
    "fill", [lambda: torch.empty(10**16), lambda: bytearray(2**62), lambda: fail(torch.OutOfMemoryError("CUDA"))]
)
def test_out_of_memory_is_a_sentence_wherever_it_happens(run, monkeypatch, fill):
    monkeypatch.setattr(doctor, "run", lambda arguments: fill())
    ran = run("doctor")
    assert ran.status == 2 and ran.err.startswith("cogvideox: out of memory: ") and ran.err.count("\n") == 1


def test_another_runtime_error_is_a_bug(run, monkeypatch):
    monkeypatch.setattr(doctor, "run", lambda arguments: fail(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="do not match"):
        run("doctor")


@pytest.mark.parametrize("verb", ["convert", "inspect", "encode", "doctor", "plot"])
def test_only_a_prompt_wants_quotes(run, verb):
    ran = run(verb, "--surplus", *"abc")
    assert ran.status == 2 and "quotes" not in ran.err


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
def test_an_empty_path_is_not_the_current_folder(run, here, arguments):
    ran = run(*arguments)
    assert ran.status == 2 and "the path is empty" in ran.err and not list(here.iterdir())


def fail(error: Exception) -> None:
    raise error
