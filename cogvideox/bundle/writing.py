"""A model folder is written whole or not at all, and never over anything but a model."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvideox.bundle.layout import INDEX, SETTINGS, WEIGHTS
from cogvideox.disk import cannot_write
from cogvideox.errors import UserError


@contextmanager
def writing_model(path: Path) -> Iterator[Path]:
    """Gives an empty folder beside `path` to write to, which becomes `path` when the block ends well.

    A model that is already there is replaced; when the block fails in any way, it is still there, untouched.

    Raises:
        UserError: something else than a model is at `path`, or it cannot be written.
    """
    if path.exists() and not _may_go(path):
        raise UserError(f"cannot write a model to {path}: something else than a model is there")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(path)


def _may_go(path: Path) -> bool:
    """Whether it is a model, parts of one in the same layout (not those of SAT, which share names), or empty."""
    if not path.is_dir():
        return False
    if (path / INDEX).is_file():
        return True
    names = {entry.name for entry in path.iterdir()}
    parts = names & WEIGHTS.keys()
    is_layout = names <= {*WEIGHTS, "tokenizer", "scheduler", SETTINGS}
    return not names or (bool(parts) and is_layout and all((path / part / "config.json").is_file() for part in parts))
