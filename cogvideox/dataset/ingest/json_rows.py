"""Rows of JSON and JSON Lines files, each parsed separately, so that a bad row does not affect the others."""

import json
import re
from collections.abc import Iterator
from typing import Any

from cogvideox.untrusted.text_encoding import split_lines

# A string (without newlines), a bracket or a comma.
_TOKEN = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[\]{},]')
_MAX_DIGITS = 4000  # maximum number of digits of an integer
_NOT_AN_OBJECT = "it is not a JSON object"


def json_rows(text: str, *, lines: bool) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (row number from 1, row) for the rows of a file. An unreadable row is replaced by the reason.

    Args:
        lines: whether the suffix promises a row per line; a JSON array is read, too, and the reverse.
    """
    is_array = text.lstrip().startswith("[")
    if is_array or not lines:
        try:
            document = _parse(text)
        except (ValueError, RecursionError):
            pass  # an element is unreadable
        else:
            rows = document if isinstance(document, list) else [document]
            yield from enumerate((row if isinstance(row, dict) else _NOT_AN_OBJECT for row in rows), start=1)
            return
    yield from enumerate(map(_row, _elements(text) if is_array else _lines(text)), start=1)


def _row(text: str) -> dict[str, Any] | str:
    try:
        row = _parse(text)
    except ValueError as error:
        return f"{_NOT_AN_OBJECT}: {error}"
    except RecursionError:
        return f"{_NOT_AN_OBJECT}: it is nested too deeply"
    return row if isinstance(row, dict) else _NOT_AN_OBJECT


def _parse(text: str) -> Any:
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | float:
    """Parse an integer of any size; Python limits the number of digits."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _lines(text: str) -> list[str]:
    return [line for line in split_lines(text) if line.strip()]


def _elements(text: str) -> list[str]:
    """Split a JSON array into the JSON of its elements, which may be nested to any depth."""
    start, depth = text.index("[") + 1, 0
    elements: list[str] = []
    for match in _TOKEN.finditer(text, start):
        token = match[0]
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        if depth < 0 or (depth == 0 and token == ","):
            elements.append(text[start : match.start()])
            start = match.end()
        if depth < 0:  # the end of the array
            break
    else:
        elements.append(text[start:])
    return [element for element in elements if element.strip()]
