"""Writing files whole or not at all."""

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cogvideox.errors import UserError

_REASONS = {
    errno.EACCES: "there is no permission to write in the folder {folder}",
    errno.EPERM: "there is no permission to write in the folder {folder}",
    errno.EROFS: "the folder {folder} is read-only",
    errno.ENOSPC: "the disk of the folder {folder} is full",
    errno.EDQUOT: "the disk quota of the folder {folder} is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EEXIST: "a part of its path is a file, not a folder",
    errno.ENAMETOOLONG: "its name is too long",
}


def cannot_write(path: str | Path, error: OSError) -> UserError:
    """The sentence for a failed write of `path`."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"cannot write {path}: {reason.format(folder=Path(path).absolute().parent)}")


def cannot_read(path: str | Path, error: OSError) -> UserError:
    """The sentence for a failed read of `path`."""
    reasons = {
        errno.ENOENT: "there is no such file",
        errno.EACCES: "there is no permission to read it",
        errno.EISDIR: "it is a folder",
    }
    return UserError(f"cannot read {path}: {reasons.get(error.errno or 0, error.strerror or str(error))}")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and moves it to `path` when the block ends well.

    Folders above `path` are created. When the block fails in any way, Ctrl-C included, the temporary file is removed
    and whatever was at `path` before is still there, untouched. The temporary name keeps the suffix of `path`, because
    writers choose the format by it, and is never that of another writer, so of several to one path the last one wins.

    Raises:
        UserError: the file cannot be written: no permission, a full disk, a path through a file.
    """
    path = Path(path)
    # A process number would not do: threads share one, and so do containers that write to one disk. The stem is short
    # because names are limited in bytes, of which a letter may take four.
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # After the move there is nothing left under this name; in every other case this is the half-written file.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_stale_files(folder: str | Path, *, idle: float = 0.0) -> None:
    """Removes what `writing` left anywhere below `folder` when its process was killed.

    A file is only taken for such a leftover when nothing was written to it for `idle` seconds: 0 is for a folder to
    which no other process writes.
    """
    for leftover in Path(folder).rglob(".*.tmp*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= idle:
                leftover.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, whole or not at all. Raises `UserError` as `writing` does."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
