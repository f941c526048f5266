import os
import signal
import subprocess
import sys

import pytest

from cogvideox.errors import UserError
from cogvideox.training.fault_tolerance.run_lock import run_lock

HOLDS = """
import sys
from cogvideox.training.fault_tolerance.run_lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
FORKS = """
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
    """Another process in a run's folder."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path, holder):
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid} on .*: wait .* --out"),
        run_lock(tmp_path / "run"),
    ):
        pass
    holder.communicate()  # the end of its input
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run/.lock").exists()


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with run_lock(tmp_path / "run"):
        (tmp_path / "run/settings.yaml").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.yaml"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_killed_process_do_not_hold_the_lock(tmp_path):
    command = [sys.executable, "-c", FORKS, str(tmp_path / "run")]
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


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*run: part of its path is a file"),
        run_lock(tmp_path / "file/run"),
    ):
        pass


def test_symbolic_links_are_not_followed(tmp_path):
    """Neither is the target of a link written to, nor is a link removed that the user made."""
    (mine := tmp_path / "mine").write_text("mine")
    (run := tmp_path / "run").mkdir()
    (run / ".lock-holder").symlink_to(mine)
    with run_lock(run):
        assert not (run / ".lock-holder").is_symlink()
    for target in (mine, tmp_path / "nothing"):
        (run / ".lock").symlink_to(target)
        with (
            pytest.raises(UserError, match=r"\.lock is a symbolic link, which is not followed: remove it"),
            run_lock(run),
        ):
            pass
        (run / ".lock").unlink()
    assert mine.read_text() == "mine" and sorted(tmp_path.iterdir()) == [mine, run]


def test_an_error_in_the_block_is_not_changed(tmp_path):
    with pytest.raises(OSError, match="of the block"), run_lock(tmp_path / "run"):
        raise OSError("of the block")
    assert list(tmp_path.iterdir()) == []
