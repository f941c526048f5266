"""A model folder is written whole or not at all, and what is in its place is lost only if it is written anew."""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogvideox.bundle.layout import INDEX, WEIGHTS
from cogvideox.disk import cannot_write
from cogvideox.errors import UserError
from cogvideox.weights.words import some


@contextmanager
def writing_model(path: Path, documents: Mapping[str, Any], others: Collection[str] = ()) -> Iterator[Path]:
    """Gives a folder beside `path` to write weights to, which becomes `path` when the block ends well.

    A model that is already there is replaced, if all of its parts are written anew and nothing else is in its folder;
    when the block fails in any way, it is still there, untouched.

    Args:
        documents: content of each JSON file, such as `vae/config.json`: these are in the folder already.
        others: what beside their folders will be written, such as `tokenizer`.

    Raises:
        UserError: something at `path` would be lost, or it cannot be written.
    """
    names = {name.partition("/")[0] for name in documents} | {*others}
    place = path.resolve()  # of a link, what it leads to
    if place.exists():
        _check_may_go(path, names)
    new = place.with_name(f".{place.name}.{os.getpid()}.new")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        for name, content in documents.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        yield new
        if place.exists():
            place.rename(old)
        new.rename(place)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(place)


def _check_may_go(path: Path, names: Collection[str]) -> None:
    """Whether what is there is nothing, or a model (not one of SAT, which has folders of the same names) of which these
    are all."""
    here = Path.cwd()
    if path.resolve() in (here, *here.parents):
        raise UserError(f"cannot write a model to {path}: it would replace the folder that this runs in; give another")
    there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    is_model = (path / INDEX).is_file() or any((path / part / "config.json").is_file() for part in WEIGHTS)
    if there and not is_model:
        raise UserError(f"cannot write a model to {path}: something else than a model is there")
    if lost := [name for name in there if name not in names]:
        raise UserError(f"cannot write a model to {path}: {some(lost)} in it would be lost; give another folder")
