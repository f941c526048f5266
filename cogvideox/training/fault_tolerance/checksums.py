"""Checksums of checkpoint files, to detect damage before anything is restored.

In `state.json`, `files` maps each of the other files to its CRC-32, and `checksum` is the CRC-32 of the JSON itself
without the `checksum` entry. Older checkpoints have no checksums.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.untrusted.files import reading

_CHUNK = 2**22


def checksums(folder: Path, names: Sequence[str], ranks: Ranks | None) -> dict[str, int]:
    """Compute the CRC-32 of files by name. With `ranks`, every rank calls this and reads some of the files.

    Raises:
        UserError: a file cannot be read; raised on every rank.
    """

    def compute(names: Sequence[str]) -> dict[str, int]:
        with reading(folder, "damaged"):
            return {name: _crc(folder / name) for name in names}

    if ranks is None:
        return compute(names)
    local = ranks.run_on_all(lambda: compute(names[ranks.rank :: ranks.size]))
    return {name: crc for by_name in ranks.all_gather_objects(local) for name, crc in by_name.items()}


def json_with_checksum(document: dict[str, Any]) -> str:
    """Serialize a document to JSON that includes its checksum."""
    return json.dumps({**document, "checksum": zlib.crc32(json.dumps(document).encode())}) + "\n"


def check_json_checksum(text: str, document: dict[str, Any]) -> None:
    """Check the checksum of a text written by `json_with_checksum`; `document` is the parsed text.

    Documents from older versions have no checksum and pass.

    Raises:
        UserError: the checksum does not match.
    """
    if "checksum" not in document and not isinstance(document.get("files"), dict):
        return
    if json_with_checksum({name: value for name, value in document.items() if name != "checksum"}) != text:
        raise UserError("state.json is damaged: its checksum does not match")


def check_files(folder: Path, files: dict[str, int] | Sequence[str], ranks: Ranks | None) -> None:
    """Check existing files against the checksums in `files`, if it has any.

    Raises:
        UserError: a file is damaged; raised on every rank.
    """
    if isinstance(files, dict):
        actual = checksums(folder, sorted(files), ranks)
        if damaged := [name for name in files if actual[name] != files[name]]:
            raise UserError(f"{damaged[0]} is damaged: its checksum does not match")


def check_exist(folder: Path, names: Iterable[str]) -> None:
    """Check that files exist.

    Raises:
        UserError: a file is missing.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing")


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
