import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.executor.run import run

BATCHES = [[1, 2], [3], [], [4, 5, 6], [7]]


@dataclass(frozen=True)
class Squares:
    """Batch task that squares numbers, and fails as its fields say."""

    fail_on: int = 0
    kill_on: int = 0
    fail_to_open: bool = False

    def open(self, worker: int) -> Callable[[Sequence[int]], list[int]]:
        if self.fail_to_open:
            raise UserError("the model is missing")

        def work(batch: Sequence[int]) -> list[int]:
            if self.kill_on in batch:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fail_on in batch:
                raise UserError(f"{self.fail_on} is bad")
            return [number**2 for number in batch]

        return work


@pytest.mark.parametrize("workers", [0, 2])
def test_results_keep_input_order(workers):
    assert list(run(Squares(), BATCHES, workers=workers)) == [[1, 4], [9], [], [16, 25, 36], [49]]


@pytest.mark.parametrize("task", [Squares(fail_on=3), Squares(fail_to_open=True)])
def test_worker_error_is_raised_in_parent(task):
    with pytest.raises(UserError, match=r"3 is bad|the model is missing"):
        list(run(task, BATCHES, workers=1))


def test_killed_worker_raises_user_error():
    with pytest.raises(UserError, match="a worker process was killed"):
        list(run(Squares(kill_on=4), BATCHES, workers=1))


def test_workers_exit_with_their_parent(tmp_path):
    code = """
import os, signal
from pathlib import Path
class Work:
    def open(self, worker):
        Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
        return lambda batch: batch
if __name__ == "__main__":
    from cogvideox.executor.run import run
    results = run(Work(), [[1]] * 100, workers=1)
    next(results)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    file, pid_file = tmp_path / "program.py", tmp_path / "pid"
    file.write_text(code)
    subprocess.run(
        [sys.executable, str(file)], env=os.environ | {"PID_FILE": str(pid_file), "PYTHONPATH": str(Path.cwd())}
    )
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 300
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_ray_results_match_local():
    pytest.importorskip("ray")
    assert list(run(Squares(), BATCHES, workers=2, backend="ray")) == list(run(Squares(), BATCHES))
    with pytest.raises(UserError, match="3 is bad"):
        list(run(Squares(fail_on=3), BATCHES, workers=1, backend="ray"))


def test_missing_ray_raises_user_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed: pip install 'cogvideox\[ray\]'"):
        list(run(Squares(), BATCHES, backend="ray"))


@pytest.mark.parametrize("world", [1, 2, 3, 12])
def test_shards_partition_the_rows(world):
    parts = [Shard(rank, world).of(range(10)) for rank in range(world)]
    assert sorted(row for part in parts for row in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_all_done_requires_the_file_of_every_shard(tmp_path):
    for rank in (1, 0):
        assert Shard(rank, 2).all_done(tmp_path, ".txt") is None
        Shard(rank, 2).file(tmp_path, ".txt").touch()
    assert Shard(0, 2).all_done(tmp_path, ".txt") == [Shard(rank, 2).file(tmp_path, ".txt") for rank in (0, 1)]
    assert Shard(0, 3).all_done(tmp_path, ".txt") is None


def test_parse_shard():
    assert Shard.parse("3/8") == Shard(3, 8)
    for text in ("8/8", "1/0"):
        with pytest.raises(UserError, match="does not exist: shards are numbered 0/"):
            Shard.parse(text)
    for text in ("3", "a/b", "-1/4", "1.5/3"):
        with pytest.raises(UserError, match="such as 0/4"):
            Shard.parse(text)
