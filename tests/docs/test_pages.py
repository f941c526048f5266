"""Links have targets, commands and options exist, the directory tree matches the package, and code blocks run."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, anchors, blocks, commands, links

RUNNABLE = [block for block in blocks("bash", "python") if block.reason is None]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page: Path):
    for target in links(page):
        if not re.match(r"\w+:", target):
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def test_every_page_is_reachable_from_the_readme():
    reached, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page not in reached:
            reached.add(page)
            targets = ((page.parent / target.partition("#")[0]).resolve() for target in links(page))
            queue += [target for target in targets if target.suffix == ".md" and target.exists()]
    assert set(PAGES) <= reached


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {
        word for _, words in commands() if words[0] == "make" for word in words[1:] if re.fullmatch("[a-z-]+", word)
    }
    assert used
    assert used <= targets


def test_every_command_line_option_exists():
    for block, words in commands():
        if words[0] != "cogvideox":
            continue
        verb = tuple(words[1 : 3 if words[1] in ("annotate", "labels", "rate") else 2])  # commands with verbs
        options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        missing = {option for option in options if not re.search(rf"{option}(?![\w-])", help_text(verb))}
        assert not missing, f"{block.name}: `cogvideox {' '.join(verb)}` has no {missing}"


@cache
def help_text(verb: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", "cogvideox", *verb, "--help-all" if verb == ("generate",) else "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_directory_tree_matches_the_package():
    tree = next(block.code for block in blocks("text") if block.code.startswith("cogvideox/"))
    shown = set(re.findall(r"^  ([\w./]+)", tree, re.MULTILINE))
    for name in shown:
        assert (ROOT / "cogvideox" / name).exists(), name
    packages = {path.name for path in (ROOT / "cogvideox").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages <= {name.rstrip("/").partition("/")[0] for name in shown}


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.name)
def test_block_runs(block: Block, tmp_path: Path):
    program = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run([*program, block.code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
