"""Lock a run's folder, so that two runs do not write checkpoints and metrics to the same folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from cogvideox.atomic_io import cannot_write, write_text
from cogvideox.errors import UserError
from cogvideox.untrusted.text_encoding import check_utf8_path


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a run's folder while the block runs. The folder is created if it does not exist.

    The operating system releases the lock when the process ends, even if it is killed. Has no effect on file systems
    without locks.

    Raises:
        UserError: another process holds the lock, the folder cannot be written to, its path is not valid UTF-8, or
            `.lock` is a symbolic link.
    """
    folder = Path(folder)
    check_utf8_path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock, holder = FileLock(folder / ".lock"), folder / ".lock-holder"  # on Windows a locked file cannot be read
    acquired = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder, holder)
        acquired = True
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")  # replaces a symbolic link
        yield
    except OSError as error:
        if acquired:  # raised in the block
            raise
        raise cannot_write(folder, error) from error
    finally:
        if acquired:  # remove the files while the lock is held, so that no other process's file is removed
            for path in (holder, folder / ".lock"):
                with suppress(OSError):
                    path.unlink()
        lock.release()
        for path in created:  # still empty if the run failed before it wrote anything
            with suppress(OSError):
                path.rmdir()


def _acquire(lock: BaseFileLock, folder: Path, holder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(_in_use(folder, holder)) from error
    except (OSError, NotImplementedError) as error:
        if (folder / ".lock").is_symlink():
            raise UserError(f"{folder / '.lock'} is a symbolic link, which is not followed: remove it") from error
        # Otherwise the file system has no locks, or permission is missing, in which case the next write fails.


def _in_use(folder: Path, holder: Path) -> str:
    try:
        process = holder.read_text(encoding="utf-8", errors="replace")
    except OSError:
        process = "another process"
    return f"{folder} is in use by {process}: wait until that run has finished, or choose a different folder with --out"
