"""Text in files of unknown encoding, and JSON text with file names that are not valid Unicode.

A file name that is not UTF-8 contains lone surrogates in Python (`os.fsdecode`). The functions here do the same with
the undecodable bytes of a text, so that one bad byte spoils one line instead of the whole file.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError

# UTF-32 first: its little-endian mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")  # not the white space
_ERRORS = "cogvideox-surrogates"


def _to_surrogates(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _to_surrogates)


def decode(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark (UTF-16 of Latin text also without). Removes the marks.

    Undecodable bytes become lone surrogates, which `text_problem` finds.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _without_mark(data)
    return data.decode(encoding, _ERRORS).lstrip("\ufeff")


def _without_mark(data: bytes) -> str:
    """Detect UTF-16 without a byte order mark: every other byte of Latin letters is zero."""
    first, second = data[::2].count(0), data[1::2].count(0)
    rare, common = len(data) / 40, len(data) / 6
    if second > common and first < rare:
        return "utf-16-le"
    return "utf-16-be" if first > common and second < rare else "utf-8"


def split_lines(text: str) -> list[str]:
    """Split a text into lines at newlines (\\n, \\r\\n, \\r) only, unlike `str.splitlines`; removes byte order marks.

    The last line of a text that ends with a newline is not an empty line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.lstrip("\ufeff") for line in (lines if lines[-1] else lines[:-1])]


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def text_problem(text: str) -> str | None:
    """Return why a text is not Unicode text, or None if it is."""
    if not is_unicode(text):
        return "it is not valid Unicode: save the text as UTF-8"
    if _CONTROL.search(text):
        return "it has control characters: save the text as UTF-8"
    return None


def dump_json(data: Any, indent: int | None = 2) -> str:
    """Format JSON with all characters readable, except lone surrogates (of file names), which UTF-8 cannot encode."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def check_utf8_path(path: str | Path) -> None:
    """Check that the libraries for safetensors and Parquet, which need paths in UTF-8, can open a path.

    Raises:
        UserError: they cannot.
    """
    if not is_unicode(str(path)):
        raise UserError(
            f"cannot use {printable(str(path))}: its path is not valid UTF-8, which safetensors and Parquet need; "
            "rename the file or folder"
        )


def printable(text: str) -> str:
    """Escape what a terminal or a file in UTF-8 cannot show: undecoded bytes as `\\xe9`, control characters."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file name
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
