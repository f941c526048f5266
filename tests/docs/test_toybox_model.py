"""`make toybox-model` with runs of a few seconds: interrupted during VAE training, resumed, and scored."""

import os
import subprocess
import sys
from pathlib import Path

from tests import tiny_runs
from tests.docs.pages import ROOT

TOOL = [sys.executable, str(ROOT / "tools/toybox_model.py")]


def overrides(make_settings, recipe: str, **run) -> list[str]:
    """Return the settings of a run as arguments, without the VAE's folder, which the tool sets."""
    return [
        argument for argument in tiny_runs.overrides(recipe, make_settings(**run)) if not argument.startswith("vae=")
    ]


def test_an_interrupted_run_is_resumed_and_scored(tmp_path: Path):
    vae = overrides(tiny_runs.vae_run, "toybox-vae", num_steps=3)
    transformer = overrides(lambda **run: tiny_runs.toybox_run(tmp_path, **run), "toybox", num_steps=3)
    command = [*TOOL, "--out", "new", "--num-prompts", "2", "--vae", *vae, "--transformer", *transformer]

    def run_tool(*options: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)

    stopped = run_tool("--seconds-per-piece", "0")
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.endswith("stopped and saved: run the same command again to continue\n")
    assert not (tmp_path / "new/transformer").exists()

    resumed = run_tool()
    assert resumed.returncode == 0, resumed.stderr
    assert "The model is in new/transformer/model" in resumed.stdout
    facts = [line.split()[0] for line in resumed.stdout.splitlines() if line.endswith("%")]
    assert {"color", "shape", "motion", "all"} <= set(facts)

    pages = [tmp_path / "new/scores" / name / "page.json" for name in ("new", "shipped")]
    times = [page.stat().st_mtime_ns for page in pages]
    repeated = run_tool()
    assert repeated.returncode == 0 and facts == [
        line.split()[0] for line in repeated.stdout.splitlines() if line.endswith("%")
    ]
    assert times == [page.stat().st_mtime_ns for page in pages]  # existing scores are kept

    for invalid, message in (
        (["--vae", "run.num_steps=0"], "run.num_steps=0"),
        (["--vae", "lr"], "'lr' is not KEY=VALUE"),
        (["--num-prompts", "0"], "--num-prompts 0"),
    ):
        rejected = run_tool(*invalid)
        assert rejected.returncode == 2 and message in rejected.stderr and "Traceback" not in rejected.stderr
