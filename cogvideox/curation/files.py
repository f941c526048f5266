"""The raw files of a folder, with the captions beside them."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError

VIDEOS = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .mts .m2ts .vob .wmv .asf .flv .f4v .ogv .3gp .mxf .gif"
IMAGES = ".png .jpg .jpeg .webp .bmp .tif .tiff .heic .heif .avif"
SUFFIXES = frozenset(f"{VIDEOS} {IMAGES}".split(" "))
"""Suffixes of videos and images."""


@dataclass(frozen=True)
class RawFile:
    """A file of the raw folder.

    Attributes:
        source: path relative to the raw folder, with `/`.
        key: hash of name, size and time of modification: if it is the same, the file is not read again.
        caption: text of the file's `.txt`, or the prompt in its `.json`; None if there is none.
    """

    path: Path
    source: str
    num_bytes: int
    key: str
    caption: str | None

    @property
    def is_image(self) -> bool:
        """Whether the file is an image by its name."""
        return self.path.suffix.lower() in IMAGES.split(" ")


def list_files(raw: Path, output: Path) -> tuple[list[RawFile], list[str]]:
    """Return the videos and images below a folder in order of their names, and the names of files that are ignored.

    Hidden files and folders, captions and the output folder are left out.

    Raises:
        UserError: there is no such folder, it contains neither videos nor images, or it is the output folder.
    """
    if not raw.is_dir():
        raise UserError(f"{raw} is not a folder: name the folder with the raw videos and images")
    found, others = [], []
    avoided = output.resolve()
    if avoided == raw.resolve():
        raise UserError(f"{output} is the folder with the raw files: choose another folder to write to")
    for path in sorted(_walk(raw, avoided)):
        if path.suffix.lower() in SUFFIXES:
            source = os.fsencode(path.relative_to(raw).as_posix()).decode("utf-8", "backslashreplace")
            try:
                about = path.stat()
            except OSError:  # a link to nothing, or removed since
                others.append(path.relative_to(raw).as_posix())
                continue
            key = hashlib.sha256(f"{source} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:24]
            found.append(RawFile(path, source, about.st_size, key, _caption(path)))
        elif path.suffix.lower() not in (".txt", ".json"):
            others.append(path.relative_to(raw).as_posix())
    if not found:
        raise UserError(f"there are no videos or images in {raw}; known suffixes are {', '.join(sorted(SUFFIXES))}")
    return found, others


def _walk(folder: Path, avoided: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and (Path(parent) / name).resolve() != avoided]
        yield from (Path(parent) / name for name in names if name[0] != ".")


def _caption(path: Path) -> str | None:
    try:
        text = path.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        try:
            text = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["prompt"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
    return " ".join(text.split()) if isinstance(text, str) else None
