"""Benchmarks run, in small; what they are there to show holds in small, and unequal results get no ratio."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.pages import ROOT

RESULTS = sorted((ROOT / "benchmarks/results").glob("*.json"))


def run(script: str, *options: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert bool(done.returncode) is fails, done.stderr[-2000:]
    return done


def report_of(file: Path) -> dict[str, Any]:
    report = json.loads(file.read_text())
    assert {"date", "processor", "torch"} <= report["environment"].keys()
    assert report["rows"]
    return report


def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path):
    """Of a small model, for which some megabytes more or less already count."""
    run("load.py", "--rounds", "1", "--out", str(tmp_path / "load.json"))
    load, convert = report_of(tmp_path / "load.json")["rows"]
    assert load["ways"]["cogvideox"]["peak_over_weights"] <= 1.15
    assert convert["ways"]["cogvideox"]["peak_over_weights"] <= 0.5


@pytest.mark.parametrize("name", ["transformer", "vae"])
def test_networks(name: str, tmp_path: Path):
    run(f"{name}.py", "--tiny", "--rounds", "3", "--out", str(tmp_path / "report.json"))
    for row in report_of(tmp_path / "report.json")["rows"]:
        ways = row["ways"]
        assert len(ways) >= 2 and row["reference"] == next(iter(ways)) == "diffusers"
        for way in ways.values():
            assert way["error"] <= 1e-5 and len(way["seconds"]) == 3 and way["ratio"] > 0


def test_strips_change_nothing(tmp_path: Path):
    run("strips.py", "--tiny", "--strips", "2", "4", "--out", str(tmp_path / "report.json"))
    (row,) = report_of(tmp_path / "report.json")["rows"]
    assert list(row["ways"]) == ["whole", "2 strips", "2 strips, offload", "4 strips", "4 strips, offload"]
    for way in row["ways"].values():
        assert way["error"] <= 1e-5 and "peak_extra_bytes" in way


def test_training(tmp_path: Path):
    """Steps here and in diffusers have equal losses, whatever is recomputed."""
    run("training.py", "--tiny", "--rounds", "1", "--out", str(tmp_path / "report.json"))
    rows = report_of(tmp_path / "report.json")["rows"]
    assert len(rows) == 2
    for row in rows:
        assert row["reference"] == "diffusers" and len(row["ways"]) == 3
        theirs = row["ways"]["diffusers"]["losses"]
        assert theirs == sorted(theirs, reverse=True) and len(set(theirs)) == 3
        for way in row["ways"].values():
            assert way["losses"] == pytest.approx(theirs, rel=1e-5)


def test_generation(tmp_path: Path):
    run("generation.py", "--tiny", "--rounds", "3", "--out", str(tmp_path / "report.json"))
    both, alone = report_of(tmp_path / "report.json")["rows"]
    assert both["ways"]["cogvideox"]["psnr_db"] >= 50
    assert alone["ways"]["cogvideox"]["peak_bytes"] <= 2 * 2**30


def test_packing(tmp_path: Path):
    """Packed rows have next to no padding, and compute what padded batches and buckets do."""
    run("packing.py", "--tiny", "--rounds", "1", "--out", str(tmp_path / "report.json"))
    rows = report_of(tmp_path / "report.json")["rows"]
    assert [row["reference"] for row in rows] == ["padded", "buckets"]
    for row in rows:
        reference, packed = row["ways"][row["reference"]], row["ways"]["packed"]
        assert packed["useful"] >= 0.97 > reference["useful"]
        assert max(packed["error"], reference["error"]) <= 1e-5


def test_step_caching_in_two_pieces(tmp_path: Path):
    """A piece ends after a video, and the next one begins with the next. More budget is fewer steps."""
    file = tmp_path / "cache.json"
    options = ["--tiny", "--rounds", "1", "--samplers", "ddim", "--seconds", "0", "--out", str(file)]
    assert "1 of 2 videos" in run("step_cache.py", *options, fails=True).stderr
    (parts,) = tmp_path.iterdir()
    first = json.loads(parts.read_text())
    run("step_cache.py", *options)
    assert list(tmp_path.iterdir()) == [file]
    (row,) = report_of(file)["rows"]
    ways = row["ways"]
    assert row["reference"] == "all steps" and ways["all steps"]["computed"] == 1
    for name, way in ways.items():
        assert len(way["seconds"]) == 2 and way["seconds"][0] == first["ways"][name]["seconds"]
        likeness = [first["ways"][name]["psnr_db"] or math.inf, (way.get("psnr_db") or math.inf)]
        assert (way.get("lowest_db") or math.inf) <= min(likeness)
    caches = [way["computed"] for name, way in ways.items() if name.startswith("cache")]
    assert caches == sorted(caches, reverse=True) and caches[-1] < 1
    assert [ways[name]["computed"] for name in ("5 steps", "guidance in 0 to 0.6")] == [0.5, 0.8]
    assert 20 < ways["float8"]["lowest_db"] < 60 and ("ratio" in ways["float8"]) is torch.cuda.is_available()


def test_rendering(tmp_path: Path):
    run("toybox_render.py", "--num-clips", "4", "--repeats", "1", "--out", str(tmp_path / "report.json"))
    grammars = json.loads((tmp_path / "report.json").read_text())["grammars"]
    assert all(figures["clips_per_processor_second"] > 0 for figures in grammars.values()) and len(grammars) == 2


def test_unequal_results_get_no_ratio():
    code = "import torch; from common import check_equal; "
    code += "check_equal('adding', {'one': torch.ones(2), 'other': torch.tensor([1, float('nan')])})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 1
    assert "adding: the result of other is off by nan" in done.stderr


def test_the_results_make_pictures(tmp_path: Path):
    run("plot.py", *map(str, RESULTS), "--out", str(tmp_path / "ratios.svg"))
    assert len(re.findall(r">\d+\.\d\dx<", (tmp_path / "ratios.svg").read_text())) > 1  # a ratio beside each bar
    caches = [str(file) for file in RESULTS if file.name.startswith("step-cache")]
    run("plot.py", *caches, "--curves", "--out", str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.svg").read_text().count("stroke-dasharray") >= 2 * len(caches)


def test_the_gpu_check_without_a_gpu(tmp_path: Path):
    """All parts end well, in two files. What fails for want of a GPU, such as its attention kernels, ends nothing."""
    options = ["--device", "cpu", "--tiny", "--rounds", "3", "--out", str(tmp_path)]
    shown = run("gpu_check.py", *options).stdout
    assert {file.name for file in tmp_path.iterdir()} == {"gpu-check.json", "gpu-check.log"}
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    parts = report["parts"]
    assert len(parts) >= 13 and {part["status"] for part in parts.values()} == {"done"}
    assert parts["tests"]["counts"] == {"skipped": 2}
    assert len(parts["compiled"]["compiled"]["again_seconds"]) == 3
    for row in parts["vae"]["rows"]:
        assert all(way["error_l2"] < 0.05 and "peak_extra_bytes" in way for way in row["ways"].values())
    assert parts["floor"]["5b"]["seconds"] > 0
    # Three clips, one by one where there is no kernel for segments.
    calls = {name: parts["checkpointing"][name]["attention_per_block"] for name in ("none", "selective", "full")}
    assert calls == {"none": 3, "selective": 3, "full": 6}
    assert parts["checkpointing"]["selective"]["distance"] < 0.1
    assert not [figure for figure in parts["float8"].values() if isinstance(figure, dict) and "failed" in figure]
    assert {goal["name"] for goal in report["goals"]} == {f"G{number}" for number in range(1, 14)}
    assert all(f"G{number} " in shown for number in range(1, 14))


def test_more_parts_of_the_gpu_check(tmp_path: Path):
    """Into the same report. A part that its limit cuts off leaves what it had found, and the next one runs."""
    options = ["--device", "cpu", "--tiny", "--rounds", "3", "--out", str(tmp_path)]
    run("gpu_check.py", *options, "--parts", "machine", "generate-5b", "--steps", "20")
    cut = run("gpu_check.py", *options, "--parts", "modes", "buckets", "--limit", "3", fails=True).stdout
    assert "modes          out of time" in cut
    parts = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "done",
        "generate-5b": "done",
        "modes": "out of time",
        "buckets": "done",
    }
    (row,) = parts["generate-5b"]["rows"]
    assert len(row["ways"]) == 6
    assert not {name: way["failed"] for name, way in row["ways"].items() if "failed" in way}
    # Of equal weights and noise, in bfloat16; those of other noise are 7 dB alike.
    assert row["ways"]["cogvideox"]["psnr_db"] > 20 and row["ways"]["cogvideox, compiled"]["psnr_db"] > 20
    assert "generate-5b" in run("gpu_check.py", "--table", "--out", str(tmp_path), fails=True).stdout
