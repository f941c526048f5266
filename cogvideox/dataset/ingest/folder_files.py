"""Files below a folder: videos and images, the files beside them, and ignored files."""

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.dataset.ingest.entries import IMAGES, TABLES, VIDEOS
from cogvideox.formatting import abbreviate
from cogvideox.untrusted.text_encoding import printable

MAX_NAMES = 8  # maximum number of suffixes or links in a note


@dataclass(frozen=True)
class FolderFiles:
    """Files below a folder. Hidden files and folders are ignored, and links to folders are not followed.

    Attributes:
        media: videos and images, sorted by name.
        others: other files, by path without suffix and suffix in lower case.
        rejects: (file or folder, reason) for media that are not regular files, and for unreadable folders.
        notes: notes on ignored files and links.
    """

    media: list[Path]
    others: dict[tuple[Path, str], Path]
    rejects: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def beside(self, file: Path, suffix: str) -> Path | None:
        """Return the file with the same name but this suffix, in upper or lower case."""
        return self.others.get((file.with_suffix(""), suffix))


def list_files(folder: Path) -> FolderFiles:
    """List all files below a folder."""
    files = FolderFiles([], {})
    ignored: Counter[str] = Counter()
    links: list[Path] = []

    def unreadable(error: OSError) -> None:
        files.rejects.append((str(error.filename), str(cannot_read(error.filename, error)).partition(": ")[2]))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        links += [path for name in folders if (path := Path(parent, name)).is_symlink()]
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for path in (Path(parent, name) for name in sorted(names) if name[0] != "."):
            suffix = path.suffix.lower()
            if suffix in VIDEOS + IMAGES:
                if (problem := _problem(path)) is None:
                    files.media.append(path)
                else:
                    files.rejects.append((str(path), problem))
            elif path.is_file():
                files.others[path.with_suffix(""), suffix] = path
                if suffix not in (".txt", *TABLES):
                    ignored[suffix or "none"] += 1
    files.media.sort()
    if ignored:
        suffixes = [f"{printable(suffix)} ({count})" for suffix, count in sorted(ignored.items())]
        files.notes.append(f"files with other extensions are ignored: {abbreviate(suffixes, MAX_NAMES)}")
    if links:
        shown = [printable(str(link.relative_to(folder))) for link in sorted(links)]
        files.notes.append(f"linked folders are not searched: {abbreviate(shown, MAX_NAMES)}")
    return files


def _problem(path: Path) -> str | None:
    """Return the reason why a path is not a regular file; None if it is one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "it is a link to a file that does not exist"
    except OSError as error:
        return str(cannot_read(path, error)).partition(": ")[2]
    return None if stat.S_ISREG(mode) else "it is not a regular file"
