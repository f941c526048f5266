"""Folder layouts of videos with captions. Reads file names and text only, no pixels.

    metadata.jsonl, .json, .csv, .parquet    a row per clip: its file, its caption, any scores
    prompts.txt + videos.txt (images.txt)    line k of one file belongs to line k of the other
    videos/ + labels/                        videos/a.mp4 and labels/a.txt
    a.mp4 + a.txt                            side by side, at any depth; instead of a.txt, the a.json that this package
                                             writes beside a video; images alone need no captions

The first layout that matches is used.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError
from cogvideox.untrusted import reading

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TABLES = (".jsonl", ".json", ".csv", ".parquet")

# Common column names; the first one in a row is used.
_FILE = ("file_name", "file_path", "video", "video_path", "image", "image_path", "path", "source")
_CAPTION = ("caption", "text", "prompt")
# Measured from the file itself, so ignored in tables.
_MEASURED = ("type", "width", "height", "fps", "num_frames", "duration", "id", "clip_id")


@dataclass(frozen=True)
class FolderEntry:
    """A file with its caption and scores.

    Attributes:
        caption: None if the file has no caption.
        start, end: the part of the file in seconds; None means its beginning or end.
    """

    source: Path
    caption: str | None
    start: float | None = None
    end: float | None = None
    scores: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderContents:
    """The entries of a folder in order, a description of its layout, and (file or row, reason) for invalid entries."""

    layout: str
    entries: list[FolderEntry]
    rejects: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_folder(path: str | Path) -> FolderContents:
    """Detect the layout of a folder, or read a table, and list its entries.

    Raises:
        UserError: no such folder, unknown layout, or lists of different lengths.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in TABLES:
        return _table(path)
    if not path.is_dir():
        reason = "it is a file of another type" if path.exists() else "file or folder not found"
        raise UserError(
            f"{path} is not a folder or table of videos or images: {reason}; tables are {', '.join(TABLES)}"
        )
    for suffix in TABLES:
        if (table := path / f"metadata{suffix}").is_file():
            return _table(table)
    if (path / "prompts.txt").is_file():
        return _lists(path)
    if (path / "videos").is_dir() and (path / "labels").is_dir():
        return _labels(path)
    return _side_by_side(path)


def _lists(folder: Path) -> FolderContents:
    notes = []
    lists = [name for name in ("videos.txt", "images.txt") if (folder / name).is_file()]
    if not lists:
        raise UserError(f"{folder} has a prompts.txt but neither a videos.txt nor an images.txt: add one of them")
    if len(lists) == 2:
        notes.append("images.txt is ignored: image-to-video models train on the first frame of each video")
    prompts, files = _lines(folder / "prompts.txt"), _lines(folder / lists[0])
    if len(prompts) != len(files):
        raise UserError(
            f"{folder / 'prompts.txt'} has {len(prompts)} lines and {lists[0]} has {len(files)}: "
            "line k of one file must belong to line k of the other"
        )
    found = [FolderEntry(folder / file, prompt) for file, prompt in zip(files, prompts)]
    return FolderContents(f"prompts.txt + {lists[0]}", found, notes=notes)


def _labels(folder: Path) -> FolderContents:
    videos = folder / "videos"
    found = []
    for file in _files(videos, VIDEOS + IMAGES):
        label = folder / "labels" / file.relative_to(videos).with_suffix(".txt")
        found.append(FolderEntry(file, _text(label)))
    return _contents(folder, "videos/ + labels/", found)


def _side_by_side(folder: Path) -> FolderContents:
    found, rejects = [], []
    videos = {file.with_suffix(""): file for file in _files(folder, VIDEOS)}
    for file in _files(folder, VIDEOS + IMAGES):
        beside = videos.get(file.with_suffix(""), file)
        if beside != file:
            rejects.append((str(file), f"the caption beside it belongs to {beside.name}"))
        else:
            caption = _text(file.with_suffix(".txt"))
            found.append(FolderEntry(file, _prompt(file.with_suffix(".json")) if caption is None else caption))
    if not videos and all(entry.caption is None for entry in found):
        return _contents(folder, "images without captions", [FolderEntry(entry.source, "") for entry in found])
    kinds = " and ".join(name for name, present in (("a.mp4", videos), ("a.png", len(found) > len(videos))) if present)
    return _contents(folder, f"{kinds} + a.txt", found, rejects)


def _contents(
    folder: Path, layout: str, found: list[FolderEntry], rejects: list[tuple[str, str]] | None = None
) -> FolderContents:
    if not found:
        raise UserError(
            f"there are no videos or images in {folder}; known layouts are prompts.txt + videos.txt, a.mp4 + a.txt, "
            f"videos/ + labels/, images, and metadata{', metadata'.join(TABLES)}"
        )
    return FolderContents(layout, found, rejects or [])


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return all files below a folder with one of the suffixes, sorted by name, without hidden files and folders."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    return sorted(file for file in files if not any(part[0] == "." for part in file.relative_to(folder).parts))


def _text(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig", errors="replace").split())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error


def _prompt(path: Path) -> str | None:
    """Return the prompt in a JSON sidecar; None if the file or the prompt does not exist."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))["prompt"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return " ".join(prompt.split()) if isinstance(prompt, str) else None


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file, without trailing empty lines."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace").rstrip()
    except OSError as error:
        raise cannot_read(path, error) from error
    return [line.strip() for line in text.split("\n")] if text else []


def _table(path: Path) -> FolderContents:
    found, rejects, ignored = [], [], set()
    for number, row in _rows(path):
        file = None if isinstance(row, str) else _first(row, _FILE)
        if not file or isinstance(row, str):
            reason = row if isinstance(row, str) else f"it names no file in any of the columns {', '.join(_FILE)}"
            rejects.append((f"{path.name}, row {number}", reason))
            continue
        text = _first(row, _CAPTION)
        known = {*_FILE, *_CAPTION, *_MEASURED, "start", "end"}
        scores = {name: _score(value) for name, value in row.items() if name not in known and value is not None}
        ignored |= {name for name in scores if not isinstance(row[name], bool | int | float | str)}
        try:
            start, end = (_seconds(row.get(name)) for name in ("start", "end"))
        except (TypeError, ValueError, OverflowError):
            rejects.append((file, f"row {number} of {path.name}: its start or end is not a number"))
            continue
        scores = {name: score for name, score in scores.items() if score is not None}
        caption = None if text is None else " ".join(text.split())
        found.append(FolderEntry(path.parent / file, caption, start, end, scores))
    notes = [f"columns that are neither numbers nor texts are ignored: {', '.join(sorted(ignored))}"] if ignored else []
    if not found and not rejects:
        raise UserError(f"{path} has no rows: add a row per clip")
    return FolderContents(path.name, found, rejects, notes)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the rows of a table with their numbers, from 1; an unreadable row is replaced by the reason."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with reading(path, "damaged or not a Parquet file"):
            yield from enumerate(_parquet_rows(path), start=1)
        return
    with reading(path, "damaged"):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    if suffix == ".csv":
        with reading(path, "not a CSV file"):
            for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1):
                too_long = "it has more values than there are columns: put texts with commas in quotes"
                yield number, too_long if None in row else row
        return
    if suffix == ".json":
        with reading(path, "not a JSON file"):
            document = json.loads(text)
        lines = document if isinstance(document, list) else [document]
    else:
        lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if isinstance(line, str) else line
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else "it is not a JSON object"


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file. Columns of types that are neither numbers nor texts have empty lists as values."""
    from pyarrow import parquet, types

    def is_plain(kind: Any) -> bool:
        if types.is_dictionary(kind):
            return is_plain(kind.value_type)
        checks = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
        return any(check(kind) for check in checks)

    table = parquet.read_table(path)
    usable = [field.name for field in table.schema if is_plain(field.type)]
    other: dict[str, Any] = {name: [] for name in table.column_names if name not in usable}
    return [{**row, **other} for row in table.select(usable).to_pylist()]


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if isinstance(value := row.get(name), str)), None)


def _seconds(value: Any) -> float | None:
    """Parse a time in a table; None for empty values and NaN. Raises TypeError or ValueError."""
    seconds = None if value in (None, "") else float(value)
    return None if seconds is None or math.isnan(seconds) else seconds


def _score(value: Any) -> float | str | None:
    """Parse a number (in CSV files, from text) or text; None for missing values and other types."""
    if not isinstance(value, bool | int | float | str) or value == "":
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    except ValueError:
        return value
    return number if math.isfinite(number) else None
