"""Tables with a row per clip: its file, its caption, and scores. Reads CSV, JSON, JSON Lines and Parquet."""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from cogvideox.dataset.ingest.csv_rows import csv_rows
from cogvideox.dataset.ingest.entries import FolderContents, FolderEntry, caption_of, find_file, is_file
from cogvideox.dataset.ingest.json_rows import json_rows
from cogvideox.dataset.ingest.parquet_rows import parquet_rows
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.untrusted.files import limit, read_bytes, reading
from cogvideox.untrusted.text_encoding import decode, printable, text_problem

# Common column names; of several in a row, the first is used.
FILE_COLUMNS = ("file_name", "file_path", "video", "video_path", "image", "image_path", "path", "source")
CAPTION_COLUMNS = ("caption", "text", "prompt")
# Ignored, because they are measured on the file itself.
_MEASURED = ("type", "width", "height", "fps", "num_frames", "duration", "id", "clip_id")
_KNOWN = {*FILE_COLUMNS, *CAPTION_COLUMNS, *_MEASURED, "start", "end"}

_MAX_SCORE_LENGTH = 10_000  # characters of a score that is a string
_Row = dict[str, Any]


def read_table(path: Path) -> FolderContents:
    """List the clips of a table.

    Raises:
        UserError: the file cannot be read, or has no rows.
    """
    entries, rejects = [], []
    ignored: dict[str, str] = {}
    for number, row in _rows(path):
        if isinstance(row, str):
            rejects.append((f"{path.name}, row {number}", row))
            continue
        row = {_column(name): value for name, value in reversed(row.items())}  # of equal names, the first column counts
        file = _first(row, FILE_COLUMNS)
        if not file or not isinstance(file, str):
            rejects.append((f"{path.name}, row {number}", _no_file(row, file)))
            continue
        source = find_file(path.parent, file)
        if "://" in file and not is_file(source):
            rejects.append((file, f"row {number} of {path.name}: it is a URL; download the file and write its path"))
            continue
        try:
            start, end = (_seconds(row.get(name)) for name in ("start", "end"))
        except (TypeError, ValueError, OverflowError):
            rejects.append((str(source), f"row {number} of {path.name}: its start or end is not a number"))
            continue
        caption = caption_of(_first(row, CAPTION_COLUMNS))
        scores = _scores(row, ignored)
        entries.append(FolderEntry(source, caption.text, start, end, scores, caption.problem))
    if not entries and not rejects:
        raise UserError(f"{path} has no rows: add a row per clip")
    notes = []
    for reason in sorted(set(ignored.values())):
        names = sorted(printable(name) for name in ignored if ignored[name] == reason)
        notes.append(f"columns {reason} are ignored: {abbreviate(names, 20)}")
    return FolderContents(path.name, entries, rejects, notes)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (row number from 1, row) for the rows of a table. An unreadable row is replaced by the reason."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_rows(path, lambda name: _column(name) in (*FILE_COLUMNS, *CAPTION_COLUMNS))
    with reading(path, "damaged"):
        text = decode(read_bytes(path, "TABLE_BYTES"))
    if suffix in (".csv", ".tsv"):
        return csv_rows(text, lambda name: _column(name) in _KNOWN, lambda row: _names_a_file(path.parent, row))
    return json_rows(text, lines=suffix == ".jsonl")


def _names_a_file(folder: Path, row: _Row) -> bool:
    file = _first({_column(name): value for name, value in row.items()}, FILE_COLUMNS)
    return bool(file) and is_file(find_file(folder, file))


@lru_cache(10_000)
def _column(name: str) -> str:
    """Return the known name of a column, regardless of case, hyphens and spaces, or its name in the table."""
    known = "_".join(name.strip().casefold().replace("-", " ").split())
    return known if known in _KNOWN else name.strip()


def _first(row: _Row, names: tuple[str, ...]) -> Any:
    """Return the value of the first of these columns that has a value; "" if all values are empty strings."""
    values = [row[name] for name in names if row.get(name) is not None]
    return next((value for value in values if value != ""), values[0] if values else None)


def _no_file(row: _Row, file: Any) -> str:
    if file is not None and not isinstance(file, str):
        return f"its file is of type {type(file).__name__}, not a path"
    columns = abbreviate([repr(printable(name[:40])) for name in reversed(row)], 6)
    return f"it names no file in any of the columns {', '.join(FILE_COLUMNS)}; the columns are {columns}"


def _seconds(value: Any) -> float | None:
    """Parse a time in a table; None for empty values and NaN. Raises TypeError or ValueError."""
    if value in (None, ""):
        return None
    seconds = _number(value)
    return None if math.isnan(seconds) else seconds


def _number(value: Any) -> float:
    """Convert a value like `float`, but reject underscores: "2024_01" is not a number. Raises the errors of `float`."""
    if isinstance(value, str) and "_" in value:
        raise ValueError(f"not a number: {value!r}")
    return float(value)


def _scores(row: _Row, ignored: dict[str, str]) -> dict[str, float | str]:
    """Return the other columns as scores. Unusable columns are added to `ignored` with the reason."""
    scores: dict[str, float | str] = {}
    max_columns = limit("COLUMNS")
    for name, value in reversed(row.items()):  # in the order of the table
        if name in _KNOWN or value is None:
            continue
        if not name or text_problem(name) is not None:
            ignored[name] = "without a name in valid Unicode"
        elif not isinstance(value, bool | int | float | str):
            ignored[name] = "that are neither numbers nor strings"
        elif isinstance(value, str) and len(value) > _MAX_SCORE_LENGTH:
            ignored[name] = f"with strings of more than {_MAX_SCORE_LENGTH:,} characters"
        elif len(scores) >= max_columns:
            ignored[name] = f"above the limit of {max_columns:,} (COGVIDEOX_MAX_COLUMNS raises it)"
        elif (score := _score(value)) is not None:
            scores[name] = score
    return scores


@lru_cache(1024)  # labels and long texts occur in many rows
def _score(value: int | float | str) -> float | str | None:
    """Parse a number, which is a string in CSV files, or a string; None for missing values."""
    if value == "" or (isinstance(value, str) and text_problem(value) is not None):
        return None
    try:
        number = _number(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    except ValueError:
        return str(value)
    return number if math.isfinite(number) else None
