"""The LoRAs that a video is made with: as people write them, and as the metadata of a video do. Imports no torch."""

import math
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.generation.source import Source, source_of_file
from cogvideox.transformer.lora_folder import lora_file


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
    return Adapter(source_of_file(lora_file(file)), strength)


def _number(text: str) -> float | None:
    try:
        return number if math.isfinite(number := float(text)) else None
    except ValueError:
        return None
