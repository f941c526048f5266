"""A lock on a run's folder: two training processes in it would mix their checkpoints and metrics."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cogvideox.atomic_io import cannot_write
from cogvideox.errors import UserError


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Holds the lock of a run's folder while the block runs. The folder is created if it does not exist.

    The operating system releases the lock when the process ends, however it ends. On a file system without locks,
    nothing is locked.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written to.
    """
    folder = Path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock, holder = FileLock(folder / ".lock"), folder / ".lock-holder"  # on Windows a locked file cannot be read
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(_in_use(folder, holder)) from error
        except (OSError, NotImplementedError):
            pass  # no locks here, or no permission, and then the next line fails
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except OSError as error:
        lock.release()
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        for path in (holder, folder / ".lock"):  # while the lock is held, so that no other process's file is removed
            with suppress(OSError):
                path.unlink()
        lock.release()
        for path in created:  # still empty if the run was refused before it wrote anything
            with suppress(OSError):
                path.rmdir()


def _in_use(folder: Path, holder: Path) -> str:
    try:
        process = holder.read_text(encoding="utf-8", errors="replace")
    except OSError:
        process = "another process"
    return f"{folder} is in use by {process}: wait until that run has finished, or choose another folder with --out"
