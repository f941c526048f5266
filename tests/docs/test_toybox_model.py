"""`make toybox-model` with runs of a few seconds: interrupted during VAE training, resumed, and scored."""

import os
import subprocess
import sys
from pathlib import Path

from tests import tiny_runs
from tests.docs.pages import ROOT

TOOL = [sys.executable, str(ROOT / "tools/toybox_model.py")]


def words(make_settings, recipe: str, **run) -> list[str]:
    return [word for word in tiny_runs.overrides(recipe, make_settings(**run)) if not word.startswith("vae=")]


def test_an_interrupted_run_is_resumed_and_scored(tmp_path: Path):
    vae = words(tiny_runs.vae_run, "toybox-vae", num_steps=3)
    transformer = words(lambda **run: tiny_runs.toybox_run(tmp_path, **run), "toybox", num_steps=3)
    command = [*TOOL, "--out", "new", "--num-prompts", "2", "--vae", *vae, "--transformer", *transformer]

    def make(*more: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)

    stopped = make("--seconds-per-piece", "0")
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.endswith("stopped and saved: run the same command again to continue\n")
    assert not (tmp_path / "new/transformer").exists()

    done = make()
    assert done.returncode == 0, done.stderr
    assert "The model is in new/transformer/model" in done.stdout
    facts = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("%")]
    assert {"color", "shape", "motion", "all"} <= set(facts)

    pages = [tmp_path / "new/scores" / name / "page.json" for name in ("new", "shipped")]
    times = [page.stat().st_mtime_ns for page in pages]
    again = make()
    assert again.returncode == 0 and facts == [
        line.split()[0] for line in again.stdout.splitlines() if line.endswith("%")
    ]
    assert times == [page.stat().st_mtime_ns for page in pages]  # existing scores are kept

    for wrong, says in (
        (["--vae", "run.num_steps=0"], "run.num_steps=0"),
        (["--vae", "lr"], "'lr' is not KEY=VALUE"),
        (["--num-prompts", "0"], "--num-prompts 0"),
    ):
        refused = make(*wrong)
        assert refused.returncode == 2 and says in refused.stderr and "Traceback" not in refused.stderr
