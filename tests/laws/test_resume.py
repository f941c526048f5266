"""A run that was stopped and resumed ends with the same state, to the bit, as one that was left alone."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvideox.training import transformer_loop, vae_loop
from cogvideox.training.checkpoint import Checkpoints
from tests import tiny_runs

Train = Callable[..., Path | None]  # (out, resume, max_seconds) -> the result, or None when it was stopped


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_runs.write_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module", params=["transformer", "vae"])
def train(request, vae) -> Train:
    if request.param == "vae":
        return lambda out, **how: vae_loop.train(tiny_runs.vae_run(), out, **how)
    return lambda out, **how: transformer_loop.train(tiny_runs.transformer_run(vae), out, **how)


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
    timing = ("ms_per_step", "samples_per_second")
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
    deadline = time.monotonic() + 60
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
