"""Atomic file writes, the lock of a database's only writer, and error messages for failed reads and writes."""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_REASONS = {
    errno.EACCES: "no permission to write in the folder {folder}",
    errno.EPERM: "no permission to write in the folder {folder}",
    errno.EROFS: "the folder {folder} is read-only",
    errno.ENOSPC: "the disk of the folder {folder} is full",
    errno.EDQUOT: "the disk quota of the folder {folder} is exhausted",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "part of its path is a file, not a folder",
    errno.EEXIST: "part of its path is a file, not a folder",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "it is a symbolic link, which is not followed",
}

# Names of temporary files of `atomic_write`; no other program uses such names.
_MARK = "cogvideox-tmp"
_TEMPORARY = re.compile(rf"\..{{0,40}}\.[0-9a-f]{{8}}\.{_MARK}(\.[^.]*)?", re.DOTALL)


def cannot_write(path: str | Path, error: OSError) -> UserError:
    """Return the `UserError` to raise when writing `path` failed."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"cannot write {path}: {reason.format(folder=Path(path).absolute().parent)}")


def cannot_read(path: str | Path, error: OSError) -> UserError:
    """Return the `UserError` to raise when reading `path` failed."""
    reasons = {
        errno.ENOENT: "file not found",
        errno.EACCES: "no permission",
        errno.EISDIR: "it is a folder",
    }
    return UserError(f"cannot read {path}: {reasons.get(error.errno or 0, error.strerror or str(error))}")


def lock_database(path: str | Path) -> "BaseFileLock":
    """Lock a database for its only writer, without waiting, with a file beside it. Readers do not need the lock.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        UserError: another process holds the lock, or the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{Path(path).resolve()}.lock", thread_local=False)  # a server may be closed by another thread
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{path} is in use by another process that writes to it: stop the server of its page (`serve`), or wait "
            "until the other command has ended, and try again"
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from error
    return lock


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` to write to, and rename it to `path` when the block succeeds.

    Parent folders are created. If the block fails (Ctrl-C included), the temporary file is removed and the file at
    `path` is unchanged. The temporary name keeps the suffix of `path`, because writers choose the format by it, and
    is unique; if several processes write concurrently, the last one wins.

    Raises:
        UserError: the file cannot be written (permissions, full disk, a file in place of a folder).
    """
    path = Path(path)
    # A random token, because threads share the process ID, and so may containers that write to the same disk. The stem
    # is truncated because file names are limited in bytes, and a character may have four.
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.{_MARK}{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # If the file still exists, it was not renamed and is incomplete.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_stale_files(*folders: str | Path, idle: float = 0.0) -> None:
    """Remove temporary files of `atomic_write` that killed processes left in `folders`; subfolders are not searched.

    Args:
        idle: seconds since the last write before a file counts as stale; 0 if no other process writes to the folders.
    """
    for folder in map(Path, folders):
        with suppress(OSError):
            for file in folder.iterdir():
                if _TEMPORARY.fullmatch(file.name) and time.time() - file.lstat().st_mtime >= idle:
                    file.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target` to write to, and move it to `target` when the block succeeds.

    A folder at `target` is replaced; if the block fails, it is unchanged. Temporary folders of killed processes that
    wrote to `target` are removed.

    Raises:
        OSError: the folder cannot be written.
    """
    # Random names: after a crash, another process may get the same process ID.
    new, old = (target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.{end}") for end in ("new", "old"))
    _remove_stale_folders(target, "new")
    descriptor = None
    try:
        new.mkdir(parents=True)
        descriptor = _lock_folder(new)
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
        _remove_stale_folders(target, "old")  # a process was killed between the two renames
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(target)
        if descriptor is not None:
            os.close(descriptor)


def _remove_stale_folders(target: Path, end: str) -> None:
    name = re.compile(rf"\.{re.escape(target.name[:40])}\.[0-9a-f]{{16}}\.{end}", re.DOTALL)
    with suppress(OSError):
        for folder in target.parent.iterdir():
            if name.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink() and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _lock_folder(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends; None if the system has no such locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _is_abandoned(folder: Path) -> bool:
    """Return whether no process writes to a temporary folder; without locks, whether it is unchanged for an hour."""
    try:
        descriptor = _lock_folder(folder)
    except OSError:
        return False
    if descriptor is not None:
        os.close(descriptor)
        return True
    return time.time() - max(path.lstat().st_mtime for path in (folder, *folder.rglob("*"))) >= 3600


def write_text(path: str | Path, text: str) -> None:
    """Write a string to `path` atomically as UTF-8. For errors see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
