"""List the raw files of a folder with their captions."""

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
    """A video or image in the raw folder.

    Attributes:
        source: path relative to the raw folder, with `/`.
        key: hash of name, size and modification time. If it is unchanged, the file is not read again.
        caption: content of the `.txt` file with the same name, or the prompt in the `.json` file; None without either.
    """

    path: Path
    source: str
    num_bytes: int
    key: str
    caption: str | None

    @property
    def is_image(self) -> bool:
        """Whether the suffix of the file is that of an image."""
        return self.path.suffix.lower() in IMAGES.split(" ")


def list_files(raw: Path, output: Path) -> tuple[list[RawFile], list[str]]:
    """Return the videos and images in a folder and its subfolders, sorted by name, and the names of ignored files.

    Hidden files and folders, captions and the output folder are skipped.

    Raises:
        UserError: the folder does not exist, contains no videos or images, or is the output folder.
    """
    if not raw.is_dir():
        raise UserError(f"{raw} is not a folder: RAW must be the folder with the raw videos and images")
    files, ignored = [], []
    excluded = output.resolve()
    if excluded == raw.resolve():
        raise UserError(f"{output} is the folder with the raw files: choose another output folder")
    for path in sorted(_walk(raw, excluded)):
        if path.suffix.lower() in SUFFIXES:
            source = os.fsencode(path.relative_to(raw).as_posix()).decode("utf-8", "backslashreplace")
            try:
                status = path.stat()
            except OSError:  # a broken link, or a file that was just removed
                ignored.append(path.relative_to(raw).as_posix())
                continue
            key = hashlib.sha256(f"{source} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:24]
            files.append(RawFile(path, source, status.st_size, key, _caption(path)))
        elif path.suffix.lower() not in (".txt", ".json"):
            ignored.append(path.relative_to(raw).as_posix())
    if not files:
        raise UserError(f"{raw} contains no videos or images; supported suffixes: {', '.join(sorted(SUFFIXES))}")
    return files, ignored


def _walk(folder: Path, excluded: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and (Path(parent) / name).resolve() != excluded]
        yield from (Path(parent) / name for name in names if name[0] != ".")


def _caption(path: Path) -> str | None:
    try:
        caption = path.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        video_sidecar = path.with_name(f"{path.name}.json")  # if another video has the same stem
        try:
            sidecar = video_sidecar if video_sidecar.is_file() else path.with_suffix(".json")
            caption = json.loads(sidecar.read_text(encoding="utf-8"))["prompt"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
    return " ".join(caption.split()) if isinstance(caption, str) else None
