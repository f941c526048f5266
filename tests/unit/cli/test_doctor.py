"""`cogvideox doctor` with complete and incomplete installations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideox.cli.common import dependencies
from cogvideox.cli.common.dependencies import PURPOSES, Library, libraries


def without(library: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run the command in an interpreter that cannot import a library."""
    code = (
        "import sys; from importlib.machinery import PathFinder; find = PathFinder.find_spec\n"
        f"hide = lambda name, *more: None if name.partition('.')[0] == {library!r} else find(name, *more)\n"
        "PathFinder.find_spec = staticmethod(hide)\n"
        "from cogvideox.cli.main import main; sys.exit(main(['doctor', *sys.argv[1:]]))"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_a_complete_installation_has_no_problems(run):
    result = run("doctor", "--json")
    assert result.status == 0 and result.err == ""
    report = json.loads(result.out)
    assert report["ok"] and report["problems"] == []
    assert report["generation"]["generate_seconds"] > 0 and report["generation"]["model"] == "toybox"
    assert report["memory"]["total_bytes"] >= report["memory"]["free_bytes"] > 0
    assert report["disk"]["writable"] and report["disk"]["free_bytes"] > 0
    assert report["optional"]["dev"]["installed"]
    assert {"python", "processor", "libraries", "torch", "devices", "video", "model"} <= report.keys()

    result = run("doctor", "--no-generation")
    assert result.status == 0
    assert "generation" not in result.out and "No problems found." in result.out
    for part in libraries():
        assert not part or f"  {part} " in result.out


def test_missing_and_outdated_libraries_are_reported(run, tmp_path: Path, monkeypatch):
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["no-such-library>=2", "numpy>=99", "rich"]\n'
        '[project.optional-dependencies]\nhub = ["no-such-hub[all]"]\ndev = ["cogvideox[hub]"]\n'
    )
    monkeypatch.setattr(dependencies, "_CHECKOUT", project)
    result = run("doctor", "--no-generation")
    assert result.status == 2 and result.err.count("\n") == 1
    assert "install no-such-library, numpy>=99 (" in result.err and "rich" not in result.err
    assert "Hugging Face hub: not installed (no-such-hub)" in result.out
    assert "toybox" in result.out  # one problem does not stop the other checks


def test_missing_torch_is_reported(tmp_path: Path):
    result = without("torch", "--json")
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("cogvideox: problems found: torch cannot be imported")
    assert result.stderr.count("\n") == 1
    report = json.loads(result.stdout)
    assert not report["ok"] and report["python"]["version"] and report["model"]["shipped"]
    assert "generation" not in report and "devices" not in report


def test_help_works_without_torch():
    assert without("torch", "--help").returncode == 0


def test_every_extra_has_a_description():
    assert libraries().keys() - {""} <= PURPOSES.keys()


def test_requirements_are_read_from_the_installed_metadata():
    requirements = dependencies._from_installation()
    assert any(line.startswith("torch") for line in requirements[""]) and requirements["dev"]


@pytest.mark.parametrize(
    ("requirement", "version", "is_satisfied"),
    [
        ("", "0.1", True),
        (">=2.11", "2.13.0+cpu", True),
        (">=2.11", "2.9.1", False),
        (">=4.9,<5", "4.13.0.92", True),
        (">=4.9,<5", "5.0.0", False),
        ("<5", "5.0rc1", False),
        (">=14", None, False),
    ],
)
def test_version_requirements_ignore_suffixes(requirement: str, version: str | None, is_satisfied: bool):
    assert Library("x", requirement, version).is_satisfied is is_satisfied
