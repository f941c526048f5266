"""Paths and digests of the inputs of a request (image, video, LoRAs), as recorded in the sidecar.

Imports neither torch nor numpy.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError
from cogvideox.transformer.lora.locate import resolve_lora_file


@dataclass(frozen=True)
class InputSource:
    """The path and digest of an image, a video or a LoRA.

    Attributes:
        path: absolute path of the file; None if the input was passed in memory.
        digest: hash of the file, or of the pixels.
    """

    path: str | None
    digest: str


@dataclass(frozen=True)
class AppliedLoRA:
    """A LoRA applied to the model. `merged` is recorded because merging changes the rounding."""

    source: InputSource
    strength: float = 1.0
    merged: bool = False


def source_of_file(path: str | Path) -> InputSource:
    """Return the path and digest of a file.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(path).absolute()
    try:
        with path.open("rb") as file:
            return InputSource(str(path), hashlib.file_digest(file, "sha256").hexdigest()[:16])
    except OSError as error:
        raise cannot_read(path, error) from error


def checked_path(source: InputSource, name: str) -> str:
    """Return the path of a source after checking that the file has not changed.

    Args:
        name: kind of input for error messages, such as "image".

    Raises:
        UserError: the input was passed in memory; the file has changed or cannot be read.
    """
    if source.path is None:
        raise UserError(f"the {name} was passed in memory, and only its digest is recorded: pass it again")
    if source_of_file(source.path) != source:
        raise UserError(
            f"the {name} {source.path} has changed since it was recorded: pass it again to use the new content"
        )
    return source.path


def parse_lora_argument(argument: str) -> AppliedLoRA:
    """Parse the `--lora` argument, `FILE` or `FILE:STRENGTH`; FILE may be a trainer's output folder.

    Raises:
        UserError: FILE is empty or does not exist, or STRENGTH is not a number.
    """
    path, colon, number = argument.rpartition(":")
    if not (path if colon else argument):
        raise UserError(f"--lora {argument!r} has no file: write FILE or FILE:STRENGTH, such as style.safetensors:0.8")
    file, strength, full_path = Path(path).expanduser(), _finite_float(number), Path(argument).expanduser()
    if not colon or full_path.exists() or (strength is None and not file.exists()):
        file, strength = full_path, 1.0  # all colons are part of the path
    if strength is None:
        raise UserError(f"the strength in --lora {argument} must be a number, such as 0.8")
    return AppliedLoRA(source_of_file(resolve_lora_file(file)), strength)


def _finite_float(string: str) -> float | None:
    try:
        return number if math.isfinite(number := float(string)) else None
    except ValueError:
        return None
