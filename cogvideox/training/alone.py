"""One process at a time in a run's folder: two would mix their checkpoints and metrics."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cogvideox.disk import cannot_write
from cogvideox.errors import UserError

_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Holds a run's folder, which is made if need be, as long as the block runs.

    What holds it is a lock of the system, on a file `.lock` in the folder: it ends with the process, however that ends,
    and the processes that draw its batches do not share it. On a disk that knows no locks nothing is held.

    Raises:
        UserError: another process holds the folder; it cannot be written to.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open(path)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is still held
        os.close(file)
        for made in missing:  # by a run that was refused before it wrote anything
            with suppress(OSError):
                made.rmdir()


def _open(path: Path) -> int:
    """The locked file, as a descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _TAKEN:
                return file
            holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise UserError(
                f"{path.parent} is being trained in by {holder}: wait until it is done, or give another --out"
            ) from error
        # Whoever held it before may have removed it after it was opened here: then it is nobody's any more.
        if os.fstat(file).st_nlink:
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        os.close(file)
