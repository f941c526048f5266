"""A run that was stopped and resumed ends with the same state, to the bit, as one that was left alone."""

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

Train = Callable[..., Path | None]  # (out, workers, resume, max_seconds) -> the result, or None when it was stopped
NUM_KILLS = {"stage": 10, "transformer": 5, "vae": 5}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_runs.write_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return tiny_runs.diffusion_run(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module", params=["transformer", "stage", "vae", "vae with a discriminator"])
def train(request, vae, stage) -> Train:
    if request.param == "stage":
        return lambda out, workers=0, **how: diffusion_trainer.train(
            replace(stage, run=replace(stage.run, num_steps=8, workers=workers)), out, **how
        )
    if request.param != "transformer":
        make = tiny_runs.vae_run if request.param == "vae" else tiny_runs.vae_gan_run
        return lambda out, workers=0, **how: vae_trainer.train(make(workers=workers), out, **how)
    return lambda out, workers=0, **how: toybox_trainer.train(tiny_runs.toybox_run(vae, workers=workers), out, **how)


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train(out) is not None
    return out


def state(out: Path) -> dict[str, bytes]:
    """Every byte that a run's result consists of: its last checkpoint and the model it left."""
    checkpoints = Checkpoints(out)
    last = checkpoints.folder / f"step-{checkpoints.latest():08d}"
    files = [*last.iterdir(), *out.glob("model/**/*.safetensors"), *out.glob("vae/*")]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def history(out: Path) -> list[dict]:
    """What was logged, without the times."""
    timing = ("ms_per_step", "samples_per_second", "tokens_per_second")
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def in_a_process(train: Train, out: Path, *, terminated_at: int | None = None) -> int:
    """Starts the run in a process of its own, which gets SIGTERM right after it saved that step."""
    child = os.fork()
    if child == 0:
        code, save = 1, Checkpoints.save

        def save_and_be_terminated(self, step, *given, **named):
            save(self, step, *given, **named)
            if step == terminated_at:
                os.kill(os.getpid(), signal.SIGTERM)

        Checkpoints.save = save_and_be_terminated
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


def test_killed(train, uninterrupted, tmp_path):
    out = tmp_path / "run"
    for step in (1, 3, 6):
        child = in_a_process(train, out)
        wait_for_step(out, step)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert train(out, resume=True) is not None
    assert state(out) == state(uninterrupted)
    assert history(out) == history(uninterrupted)


def test_terminated(train, uninterrupted, tmp_path):
    out = tmp_path / "run"
    child = in_a_process(train, out, terminated_at=2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert Checkpoints(out).latest() == 3  # the running step is finished and saved
    assert train(out, resume=True) is not None
    assert state(out) == state(uninterrupted)


def test_in_pieces(train, uninterrupted, tmp_path):
    """However short the pieces are, each does something."""
    out, pieces = tmp_path / "run", 1
    while train(out, resume=True, max_seconds=0.0) is None:
        pieces += 1
        assert pieces < 20
    assert pieces > 4
    assert state(out) == state(uninterrupted)
    assert history(out) == history(uninterrupted)


def test_with_batches_made_ahead(train, uninterrupted, tmp_path):
    """However many processes make the batches."""
    out = tmp_path / "run"
    assert train(out, workers=2) is not None
    assert state(out) == state(uninterrupted)


@pytest.fixture(params=["transformer", "stage", "vae"])
def start(request, vae, stage) -> Callable[..., subprocess.Popen]:
    """Starts or resumes a run in a folder, with the command that a user would type."""

    def start(out: Path, **run) -> subprocess.Popen:
        name, settings = {
            "vae": ("toybox-vae", tiny_runs.vae_run(**run)),
            "transformer": ("toybox", tiny_runs.toybox_run(vae, **run)),
            "stage": ("toybox-sft", replace(stage, run=replace(stage.run, **run))),
        }[request.param]
        command = [sys.executable, "-m", "cogvideox", "train", name, "--out", str(out), "--resume"]
        return subprocess.Popen([*command, *tiny_runs.overrides(name, settings)], start_new_session=True)

    return start


@pytest.mark.slow
def test_killed_at_random_moments(start, tmp_path, request):
    seed = int(os.environ.get("KILL_SEED", "0"))
    print(f"times of the kills drawn with KILL_SEED={seed}")
    rng = random.Random(seed)
    whole, pieces = tmp_path / "whole/run", tmp_path / "pieces/run"
    assert start(whole, num_steps=16).wait() == 0
    for step in sorted(rng.choices(range(15), k=NUM_KILLS[request.node.callspec.params["start"]])):
        process = start(pieces, num_steps=16)
        wait_for_step(pieces, step)
        time.sleep(rng.uniform(0.0, 0.2))
        process.kill()
        process.wait()
    assert start(pieces, num_steps=16).wait() == 0
    assert state(pieces) == state(whole)
    assert history(pieces) == history(whole)


@pytest.mark.slow
def test_terminated_with_its_workers(start, tmp_path):
    """A signal to every process of the run, as a terminal or a cluster sends it, stops it as one to the first does."""
    out, too_many = tmp_path / "run", 10**5
    process = start(out, workers=2, num_steps=too_many)
    wait_for_step(out, 2)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 75
    with pytest.raises(ProcessLookupError):  # no process of the group is left
        os.killpg(process.pid, signal.SIGTERM)
    step = Checkpoints(out).latest()
    assert step is not None and 2 <= step < too_many
