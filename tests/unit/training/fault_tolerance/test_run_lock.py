import os
import signal
import subprocess
import sys

import pytest

from cogvideox.errors import UserError
from cogvideox.training.fault_tolerance.run_lock import run_lock

HOLD_LOCK = """
import sys
from cogvideox.training.fault_tolerance.run_lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK_WORKER = """
import os, sys, time
from cogvideox.training.fault_tolerance.run_lock import run_lock
with run_lock(sys.argv[1]):
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # by the child, when its handlers of `os.fork` have run
        time.sleep(60)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a run's folder."""
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_in_use_by_another_process_is_rejected(tmp_path, holder):
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid} on .*: wait .* --out"),
        run_lock(tmp_path / "run"),
    ):
        pass
    holder.communicate()  # the end of its input
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run/.lock").exists()


def test_the_lock_of_a_killed_process_is_released(tmp_path, holder):
    holder.kill()
    holder.wait()
    with run_lock(tmp_path / "run"):
        (tmp_path / "run/settings.yaml").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.yaml"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_killed_process_do_not_hold_the_lock(tmp_path):
    command = [sys.executable, "-c", FORK_WORKER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
    try:
        with run_lock(tmp_path / "run"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    with run_lock(tmp_path / "runs/new"):
        assert (tmp_path / "runs/new").is_dir()
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*run: part of its path is a file"),
        run_lock(tmp_path / "file/run"),
    ):
        pass


def test_symbolic_links_are_not_followed(tmp_path):
    """The target of a link is not written to, and a link of the user is not removed."""
    (file := tmp_path / "file").write_text("text")
    (run := tmp_path / "run").mkdir()
    (run / ".lock-holder").symlink_to(file)
    with run_lock(run):
        assert not (run / ".lock-holder").is_symlink()
    for target in (file, tmp_path / "nothing"):
        (run / ".lock").symlink_to(target)
        with (
            pytest.raises(UserError, match=r"\.lock is a symbolic link, which is not followed: remove it"),
            run_lock(run),
        ):
            pass
        (run / ".lock").unlink()
    assert file.read_text() == "text" and sorted(tmp_path.iterdir()) == [file, run]


def test_an_error_in_the_block_is_not_changed(tmp_path):
    with pytest.raises(OSError, match="of the block"), run_lock(tmp_path / "run"):
        raise OSError("of the block")
    assert list(tmp_path.iterdir()) == []
