"""Check that output files can be written before starting the work."""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from cogvideox.atomic_io import cannot_write
from cogvideox.errors import UserError
from cogvideox.formatting import format_bytes


def check_writable(path: Path, num_bytes: int) -> None:
    """Check that a file of `num_bytes` can be written at `path`. Its folders need not exist yet.

    Raises:
        UserError: no permission, too little free space, or an invalid path.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # raises a different error if the name is too long
        folder = next((parent for parent in path.absolute().parents if parent.exists()), path)  # path if it is /
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(path, error) from error
    if free < num_bytes:
        raise UserError(
            f"cannot write {path}: it may need {format_bytes(num_bytes)}, and the disk has {format_bytes(free)} left"
        )
