"""Checksums of the files of a checkpoint, so that a flipped bit is noticed before anything is restored.

`state.json` has the CRC-32 of every other file under `files`, and under `checksum` its own: that of its JSON without
this entry. Older checkpoints have none.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.untrusted import reading

_CHUNK = 2**22


def checksums(folder: Path, names: Sequence[str], ranks: Ranks | None) -> dict[str, int]:
    """CRC-32 of files by name. With `ranks`, all of them call this, and each reads its share of the files.

    Raises:
        UserError: a file cannot be read; raised on every rank.
    """

    def of(share: Sequence[str]) -> dict[str, int]:
        with reading(folder, "damaged"):
            return {name: _crc(folder / name) for name in share}

    if ranks is None:
        return of(names)
    own = ranks.run_on_all(lambda: of(names[ranks.rank :: ranks.size]))
    return {name: crc for share in ranks.all_gather_objects(own) for name, crc in share.items()}


def signed(document: dict[str, Any]) -> str:
    """The JSON of a document and its own checksum."""
    return json.dumps({**document, "checksum": zlib.crc32(json.dumps(document).encode())}) + "\n"


def check_signature(text: str, document: dict[str, Any]) -> None:
    """Check that `text` is what `signed` returned for the document in it, or of a version without checksums.

    Raises:
        UserError: it is something else.
    """
    if "checksum" not in document and not isinstance(document.get("files"), dict):
        return
    if signed({name: value for name, value in document.items() if name != "checksum"}) != text:
        raise UserError("state.json is damaged: its checksum differs")


def check_files(folder: Path, files: dict[str, int] | Sequence[str], ranks: Ranks | None) -> None:
    """Check that the checksums of existing files are those in `files`, if it has any.

    Raises:
        UserError: a file is damaged; raised on every rank.
    """
    if isinstance(files, dict):
        found = checksums(folder, sorted(files), ranks)
        if damaged := [name for name in files if found[name] != files[name]]:
            raise UserError(f"{damaged[0]} is damaged: its checksum differs")


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
