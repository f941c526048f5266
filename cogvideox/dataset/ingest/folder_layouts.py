"""The ways in which people lay out videos with their captions. Only names and texts are read here, no pixels.

    metadata.jsonl, .json, .csv, .parquet    a row per clip: its file, its caption, whatever was measured
    prompts.txt + videos.txt (images.txt)    line k of the one belongs to line k of the other
    videos/ + labels/                        videos/a.mp4 and labels/a.txt
    a.mp4 + a.txt                            side by side, in any depth; images alone need no captions; in the place of
                                             a.txt, the a.json that this package writes beside a video

The first of them that is there counts.
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

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TABLES = (".jsonl", ".json", ".csv", ".parquet")

# What columns are called by those who write such tables; the first that a row has counts.
_FILE = ("file_name", "file_path", "video", "video_path", "image", "image_path", "path", "source")
_CAPTION = ("caption", "text", "prompt")
# Is read from the file itself.
_MEASURED = ("type", "width", "height", "fps", "num_frames", "duration", "id", "clip_id")


@dataclass(frozen=True)
class Entry:
    """A file and what is written about it. `caption` is None where there is none; `start` and `end` are in seconds."""

    source: Path
    caption: str | None
    start: float | None = None
    end: float | None = None
    scores: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entries:
    """What is there: `layout` in words, the entries in their order, and what cannot be one, with the reason."""

    layout: str
    entries: list[Entry]
    rejects: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def entries(path: str | Path) -> Entries:
    """Recognises how a folder is laid out, or reads a table, and lists what it holds.

    Raises:
        UserError: no such folder, nothing in it that is recognised, lists of different lengths.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in TABLES:
        return _table(path)
    if not path.is_dir():
        reason = "it is a file" if path.exists() else "it is not there"
        raise UserError(f"{path} is no folder of videos or images, and no table of them: {reason}")
    for ending in TABLES:
        if (table := path / f"metadata{ending}").is_file():
            return _table(table)
    if (path / "prompts.txt").is_file():
        return _lists(path)
    if (path / "videos").is_dir() and (path / "labels").is_dir():
        return _labels(path)
    return _side_by_side(path)


def _lists(folder: Path) -> Entries:
    notes = []
    lists = [name for name in ("videos.txt", "images.txt") if (folder / name).is_file()]
    if not lists:
        raise UserError(f"{folder} has a prompts.txt, but neither a videos.txt nor an images.txt beside it")
    if len(lists) == 2:
        notes.append("images.txt is not needed: an image model is given the first frame of each video")
    prompts, files = _lines(folder / "prompts.txt"), _lines(folder / lists[0])
    if len(prompts) != len(files):
        raise UserError(
            f"{folder / 'prompts.txt'} has {len(prompts)} lines and {lists[0]} has {len(files)}, but line k of the one "
            "has to belong to line k of the other"
        )
    found = [Entry(folder / file, prompt) for file, prompt in zip(files, prompts)]
    return Entries(f"prompts.txt + {lists[0]}", found, notes=notes)


def _labels(folder: Path) -> Entries:
    videos = folder / "videos"
    found = []
    for file in _files(videos, VIDEOS + IMAGES):
        label = folder / "labels" / file.relative_to(videos).with_suffix(".txt")
        found.append(Entry(file, _text(label)))
    return _some(folder, "videos/ + labels/", found)


def _side_by_side(folder: Path) -> Entries:
    found, rejects = [], []
    videos = {file.with_suffix(""): file for file in _files(folder, VIDEOS)}
    for file in _files(folder, VIDEOS + IMAGES):
        beside = videos.get(file.with_suffix(""), file)
        if beside != file:
            rejects.append((str(file), f"the caption beside it is taken for that of {beside.name}"))
        else:
            caption = _text(file.with_suffix(".txt"))
            found.append(Entry(file, _prompt(file.with_suffix(".json")) if caption is None else caption))
    if not videos and all(entry.caption is None for entry in found):
        return _some(folder, "images alone", [Entry(entry.source, "") for entry in found])
    kinds = " and ".join(name for name, there in (("a.mp4", videos), ("a.png", len(found) > len(videos))) if there)
    return _some(folder, f"{kinds} + a.txt", found, rejects)


def _some(folder: Path, layout: str, found: list[Entry], rejects: list[tuple[str, str]] | None = None) -> Entries:
    if not found:
        raise UserError(
            f"nothing in {folder} is a video or an image; known are prompts.txt + videos.txt, a.mp4 + a.txt, "
            f"videos/ + labels/, images, and metadata{', metadata'.join(TABLES)}"
        )
    return Entries(layout, found, rejects or [])


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files below a folder, hidden ones and those in hidden folders left out, in the order of their names."""
    there = (file for file in folder.rglob("*") if file.suffix.lower() in endings and file.is_file())
    return sorted(file for file in there if not any(part[0] == "." for part in file.relative_to(folder).parts))


def _text(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig", errors="replace").split())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error


def _prompt(path: Path) -> str | None:
    """The prompt in the metadata beside a video; None where there is none, or something else under that name."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))["prompt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return " ".join(prompt.split()) if isinstance(prompt, str) else None


def _lines(path: Path) -> list[str]:
    """The lines of a list; empty ones at its end are none."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace").rstrip()
    except OSError as error:
        raise cannot_read(path, error) from error
    return [line.strip() for line in text.split("\n")] if text else []


def _table(path: Path) -> Entries:
    found, rejects, left_out = [], [], set()
    for number, row in _rows(path):
        file = None if isinstance(row, str) else _first(row, _FILE)
        if not file or isinstance(row, str):
            reason = row if isinstance(row, str) else f"it has none of {', '.join(_FILE)}"
            rejects.append((f"{path.name}, row {number}", reason))
            continue
        words = _first(row, _CAPTION)
        known = {*_FILE, *_CAPTION, *_MEASURED, "start", "end"}
        scores = {name: _score(value) for name, value in row.items() if name not in known and value is not None}
        left_out |= {name for name in scores if not isinstance(row[name], bool | int | float | str)}
        try:
            start, end = (_seconds(row.get(name)) for name in ("start", "end"))
        except (TypeError, ValueError):
            rejects.append((file, f"row {number} of {path.name}: its start or end is no number"))
            continue
        kept = {name: score for name, score in scores.items() if score is not None}
        caption = None if words is None else " ".join(words.split())
        found.append(Entry(path.parent / file, caption, start, end, kept))
    notes = (
        [f"columns that are neither numbers nor texts are left out: {', '.join(sorted(left_out))}"] if left_out else []
    )
    if not found and not rejects:
        raise UserError(f"{path} has no rows")
    return Entries(path.name, found, rejects, notes)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of a table with their numbers, from 1; in the place of one that cannot be read, the reason."""
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import ArrowException, parquet

            try:
                yield from enumerate(parquet.read_table(path).to_pylist(), start=1)
            except ArrowException as error:
                raise UserError(f"cannot read {path}: it is damaged or no Parquet ({error})") from error
            return
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise cannot_read(path, error) from error
    if path.suffix.lower() == ".csv":
        try:
            for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1):
                more = "it has more values than there are columns: a text with commas is put into quotes"
                yield number, more if None in row else row
        except csv.Error as error:
            raise UserError(f"cannot read {path}: it is no CSV ({error})") from error
        return
    if path.suffix.lower() == ".json":
        try:
            whole = json.loads(text)
        except ValueError as error:
            raise UserError(f"cannot read {path}: it is no JSON ({error})") from error
        lines = whole if isinstance(whole, list) else [whole]
    else:
        lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if isinstance(line, str) else line
        except ValueError:
            row = None
        yield number, row if isinstance(row, dict) else "it is no JSON object"


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if isinstance(value := row.get(name), str)), None)


def _seconds(value: Any) -> float | None:
    """None where there is none; "nan" is how some programs write that. Raises TypeError or ValueError."""
    seconds = None if value in (None, "") else float(value)
    return None if seconds is None or math.isnan(seconds) else seconds


def _score(value: Any) -> float | str | None:
    """A number as such, also one that a CSV spells; a text; None for anything else and for what is not there."""
    if isinstance(value, bool | int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str) or not value:
        return None
    try:
        return float(value) if math.isfinite(float(value)) else None
    except ValueError:
        return value
