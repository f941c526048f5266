"""The memory page shows the output of its script, and offloaded generation stays within the predicted memory."""

import json
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT


def test_the_memory_page_contains_the_output_of_its_script():
    table = subprocess.run(
        [sys.executable, str(ROOT / "examples/memory_table.py")], capture_output=True, text=True, check=True
    ).stdout
    assert table in (ROOT / "docs/memory.md").read_text()


def test_the_plan_page_contains_the_table_of_the_command():
    command = [sys.executable, "-m", "cogvideox", "plan"]
    table = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert table in (ROOT / "docs/plan.md").read_text()


def test_group_offloading_reduces_peak_memory_to_a_third_and_keeps_the_video(tmp_path: Path):
    """With 400 MB of weights. The peak memory is within 15% of the prediction."""
    out = tmp_path / "memory.json"
    command = ["benchmarks/memory.py", "--rounds", "1", "--only", "many blocks", "--out", str(out)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, timeout=600)
    (row,) = json.loads(out.read_text())["rows"]
    for variant in row["variants"].values():
        assert variant["same_video"] and abs(variant["error"]) < 0.15
    assert row["variants"]["group offload"]["peak_over_resident"] <= 0.35
