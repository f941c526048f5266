"""Decoding of text files of unknown encoding, and JSON with file names that are not valid Unicode.

Python decodes invalid bytes of file names to lone surrogates (`os.fsdecode`). The functions here do the same for file
contents, so that an invalid byte affects one line instead of the whole file.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError

# UTF-32 comes first, because its little-endian mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")  # except whitespace
_ERRORS = "cogvideox-surrogates"


def _to_surrogates(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _to_surrogates)


def decode(data: bytes) -> str:
    """Decode UTF-8, UTF-16 and UTF-32, and remove byte order marks. Only UTF-8 and Latin text in UTF-16 need no mark.

    Undecodable bytes become lone surrogates, which `text_problem` detects.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _guess_encoding(data)
    return data.decode(encoding, _ERRORS).lstrip("\ufeff")


def _guess_encoding(data: bytes) -> str:
    """Detect UTF-16 without a byte order mark: every other byte of Latin letters is zero."""
    first, second = data[::2].count(0), data[1::2].count(0)
    few, many = len(data) / 40, len(data) / 6
    if second > many and first < few:
        return "utf-16-le"
    return "utf-16-be" if first > many and second < few else "utf-8"


def split_lines(text: str) -> list[str]:
    """Split text at newlines (\\n, \\r\\n, \\r) only, unlike `str.splitlines`, and remove byte order marks.

    A newline at the end does not start another line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.lstrip("\ufeff") for line in (lines if lines[-1] else lines[:-1])]


def is_unicode(text: str) -> bool:
    """Return whether a string has no lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def text_problem(text: str) -> str | None:
    """Return the reason why a string is not valid text; None if it is valid."""
    if not is_unicode(text):
        return "it is not valid Unicode: save the text as UTF-8"
    if _CONTROL.search(text):
        return "it has control characters: save the text as UTF-8"
    return None


def dump_json(data: Any, indent: int | None = 2) -> str:
    """Format JSON with all characters readable, except lone surrogates (of file names), which UTF-8 cannot encode."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def check_utf8_path(path: str | Path) -> None:
    """Check that a path is valid UTF-8, as the libraries for safetensors and Parquet require.

    Raises:
        UserError: it is not.
    """
    if not is_unicode(str(path)):
        raise UserError(
            f"cannot use {printable(str(path))}: its path is not valid UTF-8, which safetensors and Parquet need; "
            "rename the file or folder"
        )


def printable(text: str) -> str:
    """Escape control characters, and undecodable bytes as `\\xe9`, for terminals and UTF-8 files."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file name
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
