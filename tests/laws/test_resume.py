"""A resumed run ends with the same state, bit by bit, as an uninterrupted one (on a CPU)."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.diffusion import trainer as diffusion_trainer
from cogvideox.training.toybox import trainer as toybox_trainer
from cogvideox.training.vae import trainer as vae_trainer
from tests import tiny_runs

Train = Callable[..., Path | None]  # (out, workers, resume, max_seconds) -> the result, or None if it was stopped
NUM_KILLS = {"diffusion": 10, "toybox": 5, "vae": 5}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_runs.write_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return tiny_runs.diffusion_run(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module", params=["toybox", "diffusion", "vae", "vae with GAN loss"])
def train(request, vae, stage) -> Train:
    if request.param == "diffusion":
        return lambda out, workers=0, **options: diffusion_trainer.train(
            replace(stage, run=replace(stage.run, num_steps=8, workers=workers)), out, **options
        )
    if request.param != "toybox":
        make = tiny_runs.vae_run if request.param == "vae" else tiny_runs.vae_gan_run
        return lambda out, workers=0, **options: vae_trainer.train(make(workers=workers), out, **options)
    return lambda out, workers=0, **options: toybox_trainer.train(
        tiny_runs.toybox_run(vae, workers=workers), out, **options
    )


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train(out) is not None
    return out


def result(out: Path) -> dict[str, bytes]:
    """Return the bytes of all result files of a run: its last checkpoint and the exported model."""
    checkpoints = Checkpoints(out)
    last = checkpoints.folder / f"step-{checkpoints.latest():08d}"
    files = [*last.iterdir(), *out.glob("model/**/*.safetensors"), *out.glob("vae/*")]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def history(out: Path) -> list[dict]:
    """Return the metrics of a run without times."""
    timing = ("ms_per_step", "samples_per_second", "tokens_per_second")
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def start_in_a_process(train: Train, out: Path, *, terminated_at: int | None = None) -> int:
    """Start the run in a child process, which gets SIGTERM right after it saved step `terminated_at`."""
    child = os.fork()
    if child == 0:
        code, save = 1, Checkpoints.save

        def save_and_terminate(self, step, *given, **named):
            save(self, step, *given, **named)
            if step == terminated_at:
                os.kill(os.getpid(), signal.SIGTERM)

        Checkpoints.save = save_and_terminate
        try:
            code = 0 if train(out, resume=True) is not None else 75
        finally:
            os._exit(code)
    return child


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 600
    while (Checkpoints(out).latest() or 0) < step:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_run_resumes_exactly(train, uninterrupted, tmp_path):
    out = tmp_path / "run"
    for step in (1, 3, 6):
        child = start_in_a_process(train, out)
        wait_for_step(out, step)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert train(out, resume=True) is not None
    assert result(out) == result(uninterrupted)
    assert history(out) == history(uninterrupted)


def test_a_terminated_run_saves_and_resumes_exactly(train, uninterrupted, tmp_path):
    out = tmp_path / "run"
    child = start_in_a_process(train, out, terminated_at=2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert Checkpoints(out).latest() == 3  # the current step is finished and saved
    assert train(out, resume=True) is not None
    assert result(out) == result(uninterrupted)


def test_a_run_with_a_time_limit_progresses_and_resumes_exactly(train, uninterrupted, tmp_path):
    """Each run takes at least one step, even with a time limit of 0."""
    out, num_runs = tmp_path / "run", 1
    while train(out, resume=True, max_seconds=0.0) is None:
        num_runs += 1
        assert num_runs < 20
    assert num_runs > 4
    assert result(out) == result(uninterrupted)
    assert history(out) == history(uninterrupted)


def test_prefetch_workers_do_not_change_the_result(train, uninterrupted, tmp_path):
    out = tmp_path / "run"
    assert train(out, workers=2) is not None
    assert result(out) == result(uninterrupted)


@pytest.fixture(params=["toybox", "diffusion", "vae"])
def start(request, vae, stage) -> Callable[..., subprocess.Popen]:
    """Return a function that starts or resumes a run with the command line."""

    def start(out: Path, **run) -> subprocess.Popen:
        name, settings = {
            "vae": ("toybox-vae", tiny_runs.vae_run(**run)),
            "toybox": ("toybox", tiny_runs.toybox_run(vae, **run)),
            "diffusion": ("toybox-sft", replace(stage, run=replace(stage.run, **run))),
        }[request.param]
        command = [sys.executable, "-m", "cogvideox", "train", name, "--out", str(out), "--resume"]
        return subprocess.Popen([*command, *tiny_runs.overrides(name, settings)], start_new_session=True)

    return start


@pytest.mark.slow
def test_a_run_killed_at_random_times_resumes_exactly(start, tmp_path, request):
    seed = int(os.environ.get("KILL_SEED", "0"))
    print(f"kill times are sampled with KILL_SEED={seed}")
    rng = random.Random(seed)
    uninterrupted, resumed = tmp_path / "uninterrupted/run", tmp_path / "resumed/run"
    assert start(uninterrupted, num_steps=16).wait() == 0
    for step in sorted(rng.choices(range(15), k=NUM_KILLS[request.node.callspec.params["start"]])):
        process = start(resumed, num_steps=16)
        wait_for_step(resumed, step)
        time.sleep(rng.uniform(0.0, 0.2))
        process.kill()
        process.wait()
    assert start(resumed, num_steps=16).wait() == 0
    assert result(resumed) == result(uninterrupted)
    assert history(resumed) == history(uninterrupted)


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_the_run(start, tmp_path):
    """A signal to all processes of a run, as a terminal or cluster sends it, stops it like one to the main process."""
    out, too_many = tmp_path / "run", 10**5
    process = start(out, workers=2, num_steps=too_many)
    wait_for_step(out, 2)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 75
    with pytest.raises(ProcessLookupError):  # no process of the group is left
        os.killpg(process.pid, signal.SIGTERM)
    step = Checkpoints(out).latest()
    assert step is not None and 2 <= step < too_many
