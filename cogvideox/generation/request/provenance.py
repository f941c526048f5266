"""Files that a video is made from, as its metadata name them: by path and digest. Imports neither torch nor numpy."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError
from cogvideox.transformer.lora.locate import resolve_lora_file


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


@dataclass(frozen=True)
class Adapter:
    """A LoRA, how much of it, and whether it was merged into the weights, which rounds in another way."""

    source: Source
    strength: float = 1.0
    merged: bool = False


def adapter(text: str) -> Adapter:
    """`FILE` or `FILE:STRENGTH`; a folder stands for the file that a trainer wrote there.

    Raises:
        UserError: no file named, no such file, or a strength that is no number.
    """
    path, colon, number = text.rpartition(":")
    if not (path if colon else text):
        raise UserError(f"--lora {text!r} names no file: write FILE or FILE:STRENGTH, such as style.safetensors:0.8")
    file, strength, whole = Path(path).expanduser(), _number(number), Path(text).expanduser()
    if not colon or whole.exists() or (strength is None and not file.exists()):
        file, strength = whole, 1.0  # what colons there are belong to the path
    if strength is None:
        raise UserError(f"the strength in --lora {text} must be a number, such as 0.8")
    return Adapter(source_of_file(resolve_lora_file(file)), strength)


def _number(text: str) -> float | None:
    try:
        return number if math.isfinite(number := float(text)) else None
    except ValueError:
        return None
