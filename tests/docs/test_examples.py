"""Every example runs with arguments that make it fast, and every recipe is used on a page."""

import subprocess
import sys
from pathlib import Path

import pytest

from cogvideox.training.recipes import RECIPES
from tests.docs.pages import ROOT, commands

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ARGUMENTS = {
    "cogvlm2_server.py": ["--help"],  # needs a GPU and weights
    "judge_scores.py": ["--num-clips", "6"],
    "memory_table.py": [],
    "moving_picture.py": ["--num-prompts", "2", "--columns", "2"],
    "seams.py": ["--num-prompts", "1", "--num-frames", "17", "--num-inference-steps", "2"],
    "signal_extremes.py": [],
    "stage_chain.py": ["--num-clips", "60", "--num-steps", "1", "1", "1", "--num-prompts", "6", "--start", "toybox"],
    "toybox_page.py": ["--num-prompts", "3", "--grammar", "mixed"],
    "toybox_scores.py": ["--num-prompts", "2", "--num-inference-steps", "2", "--processes", "2"],
    "vae_scores.py": ["--num-clips", "10"],
    "vae_training.py": ["--num-steps", "1", "--long-steps", "1", "--num-clips", "1"],
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path):
    command = [sys.executable, str(example), *ARGUMENTS[example.name]]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]


def test_every_recipe_is_used_on_a_page():
    """Blocks that are not run count too: whether a large recipe fits depends on the machine."""
    assert set(RECIPES) <= {words[2] for _, words in commands() if words[:2] == ["cogvideox", "train"]}
