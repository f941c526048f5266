"""Entries of a folder or table of clips: a file with its caption, its scores and their problems."""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.untrusted.files import limit, read_bytes, reading
from cogvideox.untrusted.text_encoding import decode, text_problem

VIDEOS = (
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif"),
    *(".mts", ".m2ts", ".ts", ".3gp", ".3g2", ".ogv", ".vob", ".asf", ".mxf", ".f4v"),
)
IMAGES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".qoi"),
)
_ESCAPED_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class FolderEntry:
    """A file with its caption and scores.

    Attributes:
        caption: None if the file has no caption.
        start, end: start and end of the clip in the file, in seconds; None means the beginning or end of the file.
        caption_problem: the reason why the caption cannot be used; None if it is valid or missing.
    """

    source: Path
    caption: str | None
    start: float | None = None
    end: float | None = None
    scores: Mapping[str, float | str] = field(default_factory=dict)
    caption_problem: str | None = None


@dataclass(frozen=True)
class FolderContents:
    """The contents of a folder.

    Attributes:
        layout: description of the layout.
        entries: the valid entries, in order.
        rejects: (file or row, reason) for invalid entries.
        notes: notes on ignored files and columns.
    """

    layout: str
    entries: list[FolderEntry]
    rejects: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Caption:
    """A caption with collapsed white space, or the problem with it. Both are None if there is no caption."""

    text: str | None = None
    problem: str | None = None


def caption_of(value: Any, name: str = "") -> Caption:
    """Check a caption. A caption in a table may be a number.

    Args:
        name: the caption's file, for the description of a problem.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Caption()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return Caption(problem=f"its caption is of type {type(value).__name__}, not a string")
    caption, problem = _clean(value if isinstance(value, str) else str(value))
    if problem is not None:
        where = f" {name}" if name else ""
        return Caption(problem=f"its caption{where} cannot be used: {problem}")
    return Caption(caption)


@lru_cache(maxsize=64)  # a small file may repeat a long caption in many rows
def _clean(value: str) -> tuple[str, str | None]:
    """Return a caption with collapsed white space, and the reason why it cannot be used, if any."""
    max_length = limit("CAPTION")
    if len(value) > max_length:
        problem = f"it has {len(value):,} characters, above the limit of {max_length:,}"
        return "", f"{problem}; COGVIDEOX_MAX_CAPTION raises it"
    caption = " ".join(value.split())
    return caption, text_problem(caption)


def read_caption(path: Path) -> Caption:
    """Read a caption file in any Unicode encoding."""
    try:
        with reading(path, "damaged"):
            return caption_of(decode(read_bytes(path)), path.name)
    except UserError as error:
        return Caption(problem=f"its caption cannot be used: {error}")


def find_file(folder: Path, name: str) -> Path:
    """Return the path of a file that a table or list in `folder` names, whether or not it exists.

    The name may have backslashes as on Windows, surrounding quotation marks, a different Unicode normalization or, as
    in tables of `cogvideox curate`, bytes that are not UTF-8 written as `\\xe9`.
    """
    name = name.strip()
    unquoted = name[1:-1].strip() if name[:1] in ("'", '"') and name[-1:] == name[:1] else name
    slashes = unquoted.replace("\\", "/")
    normalized = (unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))
    unescaped = _ESCAPED_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), unquoted)
    for candidate in dict.fromkeys((name, unquoted, unescaped, slashes, *normalized)):
        if is_file(folder / candidate):
            return folder / candidate
    return folder / name


def is_file(path: Path) -> bool:
    """Return whether a regular file exists; False for names that no file system allows."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
