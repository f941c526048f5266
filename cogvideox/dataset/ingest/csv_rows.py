"""Rows of CSV files in the dialects of spreadsheet programs and scripts.

The separator is a comma, semicolon, tab or vertical bar. An unreadable row, such as a row with an unclosed quotation
mark, does not affect the rows after it.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence

from cogvideox.untrusted.text_encoding import split_lines

SEPARATORS = (",", ";", "\t", "|")

_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?', re.IGNORECASE)  # written by Excel
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_NEVER_CLOSED = "a quotation mark is never closed: write quotation marks inside a value twice"
_TEXT_AFTER = "text follows a closing quotation mark: write quotation marks inside a value twice"
_TOO_LONG = "it has more values than there are columns: put values that contain the separator {!r} in quotes"


def csv_rows(
    text: str, is_known: Callable[[str], bool], is_row: Callable[[dict[str, str]], bool]
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield (row number from 1, row) for the rows of a CSV file. An unreadable row is replaced by the reason.

    Args:
        is_known: returns whether a column name is known. The separator is chosen to give most known columns.
        is_row: returns whether a row names a file. If a line inside a quoted value does, a quotation mark is unclosed.
    """
    lines = split_lines(text)
    at = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    separators: Sequence[str] = SEPARATORS
    if at < len(lines) and (declared := _SEPARATOR_LINE.fullmatch(lines[at].strip(" "))):
        separators, at = (declared[1],), at + 1
    if at >= len(lines):
        return
    headers = {separator: _header(lines[at], separator) for separator in separators}
    separator = max(headers, key=lambda candidate: (sum(map(is_known, headers[candidate])), len(headers[candidate])))
    header, at = headers[separator], at + 1

    def as_row(values: Sequence[str]) -> dict[str, str]:
        row: dict[str, str] = {}
        for name, value in zip(header, values):
            row.setdefault(name, _clean(value, separator))
        return row

    number = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        number += 1
        values, num_lines = _record(lines, at, separator)
        inner = (as_row(_split(line, separator)) for line in lines[at + 1 : at + num_lines])
        if num_lines > 1 and any(map(is_row, inner)):
            values, num_lines = _NEVER_CLOSED, 1
        at += num_lines
        if isinstance(values, str):
            yield number, f"line {at}: {values}"
        elif any(values[len(header) :]):
            yield number, _TOO_LONG.format(separator)
        elif any(values):
            yield number, as_row(_unwrap(values))


def _header(line: str, separator: str) -> list[str]:
    return [name.strip().strip("\"'").strip() for name in _split(line, separator)]


def _split(line: str, separator: str) -> list[str]:
    """Split a line into values, even if its quotation marks are wrong."""
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # a value above the limit of the csv module
        return []


def _record(lines: Sequence[str], at: int, separator: str) -> tuple[list[str] | str, int]:
    """Return the values of the record that starts at line `at`, or why it is unreadable; and its number of lines."""
    problem, num_lines = "", 0
    for escaped in (False, True):
        if escaped and '\\"' not in lines[at]:
            break
        following = (lines[index] + "\n" for index in range(at, len(lines)))
        if escaped:
            following = (line.replace('\\"', '""') for line in following)
        reader = csv.reader(following, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            values = next(reader)
        except csv.Error as error:
            unclosed = reader.line_num > 1 or "unexpected end" in str(error) or "field limit" in str(error)
            problem, num_lines = problem or (_NEVER_CLOSED if unclosed else _TEXT_AFTER), 1
        else:
            if reader.line_num == 1 or '\\"' not in lines[at] or escaped:
                return values, reader.line_num
            problem, num_lines = _NEVER_CLOSED, 1
    return problem, num_lines


def _unwrap(values: list[str]) -> list[str]:
    """Remove quotation marks that are part of the values, for example from triple quotation marks in the file."""

    def is_wrapped(value: str) -> bool:
        return len(value) > 1 and value[0] == value[-1] == '"'

    values = [value.strip() for value in values]
    all_wrapped = all(is_wrapped(value) for value in values if value)
    return [value[1:-1] if is_wrapped(value) and (all_wrapped or '"' not in value[1:-1]) else value for value in values]


def _clean(value: str, separator: str) -> str:
    """Strip a value, and replace the decimal comma of a number by a point."""
    value = value.strip()
    return value.replace(",", ".") if separator != "," and _DECIMAL_COMMA.fullmatch(value) else value
