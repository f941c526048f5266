"""Benchmarks run, and what they are there to show holds in small."""

import json
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT


def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path):
    """Of a small model, for which some megabytes more or less already count."""
    command = [sys.executable, str(ROOT / "benchmarks/load.py"), "--rounds", "1", "--out", "load.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    median = json.loads((tmp_path / "load.json").read_text())["median"]
    assert median["cogvideox"]["peak_over_weights"] <= 1.15
    assert median["cogvideox convert"]["peak_over_weights"] <= 0.5
