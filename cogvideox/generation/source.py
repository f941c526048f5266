"""Files that a video is made from, as its metadata name them: by path and digest. Imports neither torch nor numpy."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cogvideox.disk import cannot_read
from cogvideox.errors import UserError


@dataclass(frozen=True)
class Source:
    """What the metadata of a video say of a picture, a clip or a LoRA that it was made from.

    path: the file, absolute; None for what was given in memory.
    digest: of the file, or of the pixels.
    """

    path: str | None
    digest: str


def source_of_file(path: str | Path) -> Source:
    """What the metadata of a video say of a file. Raises UserError where it cannot be read."""
    path = Path(path).absolute()
    try:
        with path.open("rb") as file:
            return Source(str(path), hashlib.file_digest(file, "sha256").hexdigest()[:16])
    except OSError as error:
        raise cannot_read(path, error) from error


def file_of(source: Source, name: str) -> str:
    """The file that a source tells of, which in messages is called the `name`.

    Raises:
        UserError: there was none, or it has changed or cannot be read any more.
    """
    if source.path is None:
        raise UserError(f"the {name} was given in memory, and only its digest is kept: give it again")
    if source_of_file(source.path) != source:
        raise UserError(f"the {name} {source.path} has changed since: give it again, to use what it is now")
    return source.path
