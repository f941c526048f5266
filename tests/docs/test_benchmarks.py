"""Every benchmark runs at a small size and shows the expected effect; unequal results get no ratio."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cogvideox.hardware import cpu_probe
from tests.docs.pages import ROOT

RESULTS = sorted((ROOT / "benchmarks/results").glob("*.json"))


def run(script: str, *options: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    process = subprocess.run(command, capture_output=True, text=True)
    assert bool(process.returncode) is fails, process.stderr[-2000:]
    return process


def read_report(file: Path) -> dict[str, Any]:
    report = json.loads(file.read_text())
    assert {"date", "processor", "torch"} <= report["environment"].keys()
    assert report["rows"]
    return report


def test_loading_needs_little_more_memory_than_the_weights(tmp_path: Path):
    """The limits have a margin, because a few megabytes of overhead matter for a small model."""
    run("load.py", "--rounds", "1", "--out", str(tmp_path / "load.json"))
    load, convert = read_report(tmp_path / "load.json")["rows"]
    assert load["variants"]["cogvideox"]["peak_over_weights"] <= 1.15
    assert convert["variants"]["cogvideox"]["peak_over_weights"] <= 0.5


@pytest.mark.parametrize("name", ["transformer", "vae"])
def test_networks_are_timed_against_diffusers_with_equal_outputs(name: str, tmp_path: Path):
    run(f"{name}.py", "--tiny", "--rounds", "3", "--out", str(tmp_path / "report.json"))
    for row in read_report(tmp_path / "report.json")["rows"]:
        variants = row["variants"]
        assert len(variants) >= 2 and row["reference"] == next(iter(variants)) == "diffusers"
        for variant in variants.values():
            assert variant["error"] <= 1e-5 and len(variant["seconds"]) == 3 and variant["ratio"] > 0


@pytest.fixture
def import_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module


def test_int8_layers_have_errors_of_eight_bits(tmp_path: Path):
    run("int8.py", "--tiny", "--rounds", "3", "--out", str(tmp_path / "int8.json"))
    for row in read_report(tmp_path / "int8.json")["rows"]:
        errors = {name: variant["error"] for name, variant in row["variants"].items()}
        assert errors.pop("float32") == 0
        assert all(0 < error < 0.02 for error in errors.values()), errors


def test_tasks_and_bare_kernels_of_a_cpu_have_one_clock(import_benchmark):
    assert import_benchmark("cpu").cpu_clock is cpu_probe.cpu_clock


def test_the_median_of_an_even_number_of_generations_is_the_mean_of_the_middle_two(import_benchmark, monkeypatch):
    seconds = chain.from_iterable((value,) * 3 for value in (4.0, 1.0, 3.0, 10.0))  # three programs

    def measure(command: list[str], **options: Any) -> None:
        value = next(seconds)
        result = {"seconds": value, "seconds_by_stage": {"text": value / 2}, "dtype": "bfloat16", "peak_bytes": 7}
        Path(command[-1]).write_text(json.dumps(result))

    monkeypatch.setattr(subprocess, "run", measure)
    variants = import_benchmark("real_size").measure_rounds(Path("model"), 4, None)["variants"]
    assert variants["cogvideox"]["median"] == 3.5 and variants["cogvideox"]["text_seconds"] == 1.75


def test_dtypes_are_timed_against_the_fastest_dtype_of_diffusers(tmp_path: Path):
    run("cpu.py", "--tiny", "--rounds", "3", "--out", str(tmp_path / "report.json"))
    report = read_report(tmp_path / "report.json")
    assert "cpu_features" in report["settings"] and len(report["rows"]) == 4
    for row in report["rows"]:
        variants = row["variants"]
        assert row["reference"].startswith("diffusers, ")
        fastest = min((v["median"], name) for name, v in variants.items() if name.startswith("diffusers"))
        assert row["reference"] == fastest[1] and all(v["fraction_of_kernel_speed"] > 0 for v in variants.values())
        assert variants["cogvideox, float32"]["error"] <= 1e-5


def test_a_model_of_real_size_is_written_and_measured_at_a_tiny_size(tmp_path: Path):
    run("real_size.py", "--tiny", "--folder", str(tmp_path / "model"), "--out", str(tmp_path / "report.json"))
    (row,) = read_report(tmp_path / "report.json")["rows"]
    for variant in row["variants"].values():
        assert all(variant[f"{stage}_seconds"] > 0 for stage in ("load", "text", "steps", "decode"))
        assert variant["peak_bytes"] > 0
    assert row["variants"]["cogvideox"]["dtype"] == "float32"  # too small for bfloat16


def test_strips_do_not_change_the_decoded_video(tmp_path: Path):
    run("strips.py", "--tiny", "--strips", "2", "4", "--out", str(tmp_path / "report.json"))
    (row,) = read_report(tmp_path / "report.json")["rows"]
    assert list(row["variants"]) == ["whole", "2 strips", "2 strips, offload", "4 strips", "4 strips, offload"]
    for variant in row["variants"].values():
        assert variant["error"] <= 1e-5 and "peak_extra_bytes" in variant


def test_training_steps_have_the_losses_of_diffusers(tmp_path: Path):
    """With each setting of activation checkpointing."""
    run("training.py", "--tiny", "--rounds", "1", "--out", str(tmp_path / "report.json"))
    rows = read_report(tmp_path / "report.json")["rows"]
    assert len(rows) == 2
    for row in rows:
        assert row["reference"] == "diffusers" and len(row["variants"]) == 3
        expected = row["variants"]["diffusers"]["losses"]
        assert expected == sorted(expected, reverse=True) and len(set(expected)) == 3
        for variant in row["variants"].values():
            assert variant["losses"] == pytest.approx(expected, rel=1e-5)


def test_generation_gives_the_video_of_diffusers_within_2_gib(tmp_path: Path):
    run("generation.py", "--tiny", "--rounds", "3", "--out", str(tmp_path / "report.json"))
    with_diffusers, cogvideox_only = read_report(tmp_path / "report.json")["rows"]
    assert with_diffusers["variants"]["cogvideox"]["psnr_db"] >= 50
    assert cogvideox_only["variants"]["cogvideox"]["peak_bytes"] <= 2 * 2**30


def test_resolved_policies_select_the_same_rows_elsewhere(tmp_path: Path):
    run("policies.py", "--rows", "3000", "--out", str(tmp_path / "report.json"))
    rows = read_report(tmp_path / "report.json")["rows"]
    assert rows["the resolved file elsewhere"]["rows selected differently"] == 0
    assert rows["select: target fraction"]["kept at step 100,000"] == 0.4


def test_packing_removes_padding_without_changing_outputs(tmp_path: Path):
    run("packing.py", "--tiny", "--rounds", "1", "--out", str(tmp_path / "report.json"))
    rows = read_report(tmp_path / "report.json")["rows"]
    assert [row["reference"] for row in rows] == ["padded", "buckets"]
    for row in rows:
        reference, packed = row["variants"][row["reference"]], row["variants"]["packed"]
        assert packed["useful"] >= 0.97 > reference["useful"]
        assert max(packed["error"], reference["error"]) <= 1e-5


def test_the_step_cache_benchmark_resumes_after_an_interruption(tmp_path: Path):
    """The first run stops after one video, and the second continues with the next. A larger error budget computes fewer
    steps."""
    file = tmp_path / "cache.json"
    options = ["--tiny", "--rounds", "1", "--samplers", "ddim", "--seconds", "0", "--out", str(file)]
    assert "1 of 2 videos" in run("step_cache.py", *options, fails=True).stderr
    (parts,) = tmp_path.iterdir()
    first = json.loads(parts.read_text())
    run("step_cache.py", *options)
    assert list(tmp_path.iterdir()) == [file]
    (row,) = read_report(file)["rows"]
    variants = row["variants"]
    assert row["reference"] == "all steps" and variants["all steps"]["computed"] == 1
    for name, variant in variants.items():
        assert len(variant["seconds"]) == 2 and variant["seconds"][0] == first["variants"][name]["seconds"]
        psnrs = [first["variants"][name]["psnr_db"] or math.inf, (variant.get("psnr_db") or math.inf)]
        assert (variant.get("lowest_db") or math.inf) <= min(psnrs)
    caches = [variant["computed"] for name, variant in variants.items() if name.startswith("cache")]
    assert caches == sorted(caches, reverse=True) and caches[-1] < 1
    assert [variants[name]["computed"] for name in ("5 steps", "guidance in 0 to 0.6")] == [0.5, 0.8]
    assert 20 < variants["float8"]["lowest_db"] < 60 and ("ratio" in variants["float8"]) is torch.cuda.is_available()


def test_rendering_speed_is_reported_for_both_grammars(tmp_path: Path):
    run("toybox_render.py", "--num-clips", "4", "--repeats", "1", "--out", str(tmp_path / "report.json"))
    grammars = json.loads((tmp_path / "report.json").read_text())["grammars"]
    assert all(figures["clips_per_processor_second"] > 0 for figures in grammars.values()) and len(grammars) == 3


def test_costs_and_scale_of_curation_are_reported(tmp_path: Path):
    pytest.importorskip("scenedetect")
    options = ["--rows", "20", "--num-clips", "1", "--num-frames", "33", "--height", "64", "--out"]
    run("curation.py", *options, str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"probe", "split", "cut", "decode", "phash", "motion"} <= set(report["seconds_per_second_of_video"])
    assert report["scale"]["20"]["manifest_megabytes"] > 0


def test_metrics_of_evaluate_are_timed(tmp_path: Path):
    only = ["--only", "toybox", "PSNR", "entropy", "CLIP", "RAFT"]
    run("evaluation.py", "--tiny", "--rounds", "1", *only, "--out", str(tmp_path / "report.json"))
    metrics = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert len(metrics) == 6 and all(metric["seconds"] > 0 for metric in metrics)


def test_unequal_results_get_no_ratio():
    code = "import torch; from common import check_equal; "
    code += "check_equal('adding', {'one': torch.ones(2), 'other': torch.tensor([1, float('nan')])})"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert process.returncode == 1
    assert "adding: the result of other is off by nan" in process.stderr


def test_the_published_results_are_plotted(tmp_path: Path):
    run("plot.py", *map(str, RESULTS), "--out", str(tmp_path / "ratios.svg"))
    assert len(re.findall(r">\d+\.\d\dx<", (tmp_path / "ratios.svg").read_text())) > 1  # labels of the bars
    caches = [str(file) for file in RESULTS if file.name.startswith("step-cache")]
    run("plot.py", *caches, "--curves", "--out", str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.svg").read_text().count("stroke-dasharray") >= 2 * len(caches)


def test_the_gpu_check_completes_all_parts_without_a_gpu(tmp_path: Path):
    """Measurements that need a GPU, such as its attention kernels, are reported as failed without ending their part."""
    options = ["--device", "cpu", "--tiny", "--rounds", "3", "--out", str(tmp_path)]
    stdout = run("gpu_check.py", *options).stdout
    assert {file.name for file in tmp_path.iterdir()} == {"gpu-check.json", "gpu-check.log"}
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    parts = report["parts"]
    assert len(parts) >= 13 and {part["status"] for part in parts.values()} == {"done"}
    assert parts["tests"]["counts"] == {"skipped": 2}
    assert len(parts["compiled"]["compiled"]["again_seconds"]) == 3
    for row in parts["vae"]["rows"]:
        assert all(variant["error_l2"] < 0.05 and "peak_extra_bytes" in variant for variant in row["variants"].values())
    assert parts["lower-bound"]["5b"]["seconds"] > 0
    # On a CPU, training in bfloat16 computes attention as matrix products, so there are no kernel calls to count.
    calls = {name: parts["checkpointing"][name]["attention_per_block"] for name in ("none", "selective", "full")}
    assert calls == {"none": 0, "selective": 0, "full": 0}
    assert parts["checkpointing"]["selective"]["distance"] < 0.1
    assert not [figure for figure in parts["float8"].values() if isinstance(figure, dict) and "failed" in figure]
    assert {goal["name"] for goal in report["goals"]} == {f"G{number}" for number in range(1, 14)}
    assert all(f"G{number} " in stdout for number in range(1, 14))


def test_the_gpu_check_adds_parts_to_a_report_and_continues_after_a_timeout(tmp_path: Path):
    """A part that reaches its time limit keeps its results so far, and the next part runs."""
    options = ["--device", "cpu", "--tiny", "--rounds", "3", "--out", str(tmp_path)]
    run("gpu_check.py", *options, "--parts", "machine", "generate-5b", "--steps", "20")
    stdout = run("gpu_check.py", *options, "--parts", "modes", "buckets", "--limit", "3", fails=True).stdout
    assert "modes          out of time" in stdout
    parts = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "done",
        "generate-5b": "done",
        "modes": "out of time",
        "buckets": "done",
    }
    (row,) = parts["generate-5b"]["rows"]
    assert len(row["variants"]) == 6
    assert not {name: variant["failed"] for name, variant in row["variants"].items() if "failed" in variant}
    # Equal weights and noise, in bfloat16. Videos from different noise have a PSNR of 7 dB.
    assert row["variants"]["cogvideox"]["psnr_db"] > 20 and row["variants"]["cogvideox, compiled"]["psnr_db"] > 20
    assert "generate-5b" in run("gpu_check.py", "--table", "--out", str(tmp_path), fails=True).stdout


def test_signals_of_labels_are_compared_on_families_held_out_from_training(import_benchmark):
    module, rng = import_benchmark("label_signals"), np.random.default_rng(0)
    family = np.repeat(["train", "wide", "broad", "test"], 30)
    label = rng.integers(2, size=len(family)).astype(float)
    columns = {
        "motion.mean": label + 0.1 * rng.normal(size=len(family)),
        "picture.sharpness": rng.normal(size=len(family)),
    }
    table = pa.table({"source": [str(i) for i in range(len(family))], **columns})
    accuracies = module.compare_signals(table, dict.fromkeys(module.LABELS, label), family, num_trees=20)
    assert list(accuracies) == ["chosen", "all", "no motion", "no picture"]
    for choice, by_label in accuracies.items():
        for name, values in by_label.items():
            assert len(values) == 3, name  # the family "test" is never used
            assert (min(values) > 0.9) == (choice != "no motion")
    assert module.LABELS["static"].signals  # the definitions are unchanged
    lines = module.format_table(accuracies).splitlines()
    assert len(lines) == 2 + len(module.LABELS) and lines[0].startswith("| label | chosen | all | no motion |")
