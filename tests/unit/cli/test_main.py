"""Verbs, help and exit statuses."""

import subprocess
import sys

import pytest
import torch

import cogvideox
from cogvideox.cli import main
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


def test_torchs_ways_to_be_out_of_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**16)
    assert main._is_out_of_memory(error.value)
    assert main._is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not main._is_out_of_memory(RuntimeError("shapes do not match"))
