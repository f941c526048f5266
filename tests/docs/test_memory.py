"""The page on memory shows what its script prints, and a streamed generation takes what it says."""

import json
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT


def test_the_table_is_what_the_script_prints():
    printed = subprocess.run(
        [sys.executable, str(ROOT / "examples/memory_table.py")], capture_output=True, text=True, check=True
    ).stdout
    assert printed in (ROOT / "docs/memory.md").read_text()


def test_a_streamed_generation_takes_a_third_of_the_memory_at_most(tmp_path: Path):
    """400 MB of weights on the disk: the same pixels, and a peak that was foretold."""
    out = tmp_path / "memory.json"
    command = ["benchmarks/memory.py", "--rounds", "1", "--only", "many blocks", "--out", str(out)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, timeout=600)
    (row,) = json.loads(out.read_text())["rows"]
    for way in row["ways"].values():
        assert way["same_video"] and abs(way["error"]) < 0.15
    assert row["ways"]["streamed"]["of_resident"] <= 0.35
