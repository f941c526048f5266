"""Folder layouts of videos with captions. Reads only file names and text files.

    metadata.jsonl, .json, .csv, .tsv, .parquet    a row per clip: its file, its caption, any scores
    prompts.txt + videos.txt (images.txt)          line k of one file belongs to line k of the other
    videos/ + labels/                              videos/a.mp4 and labels/a.txt
    a.mp4 + a.txt                                  side by side, at any depth; a.txt may be the a.json that this
                                                   package writes beside a video; folders of images need no captions

The first layout that matches is used.
"""

from pathlib import Path

from cogvideox.dataset.ingest.entries import (
    TABLES,
    VIDEOS,
    Caption,
    FolderContents,
    FolderEntry,
    caption_of,
    find_file,
    is_file,
    read_caption,
)
from cogvideox.dataset.ingest.folder_files import FolderFiles, list_files
from cogvideox.dataset.ingest.tables import read_table
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, read_bytes, read_text, reading
from cogvideox.untrusted.text_encoding import decode, split_lines


def list_folder(path: str | Path) -> FolderContents:
    """Detect the layout of a folder, or read a table, and list its entries.

    Raises:
        UserError: no such folder, unknown layout, or lists of different lengths.
    """
    path = Path(path)
    if is_file(path) and path.suffix.lower() in TABLES:
        return read_table(path)
    if not path.is_dir():
        reason = "it is a file of a different type" if path.exists() else "file or folder not found"
        raise UserError(
            f"{path} is not a folder or table of videos or images: {reason}; tables are {', '.join(TABLES)}"
        )
    tables = [table for suffix in TABLES if (table := _child(path, f"metadata{suffix}")).is_file()]
    if tables:
        contents = read_table(tables[0])
        others = [f"{table.name} is ignored: {tables[0].name} is the table" for table in tables[1:]]
        return FolderContents(contents.layout, contents.entries, contents.rejects, [*contents.notes, *others])
    if (path / "prompts.txt").is_file():
        return _lists(path)
    if (path / "videos").is_dir() and (path / "labels").is_dir():
        return _labels(path)
    return _side_by_side(path)


def _child(folder: Path, name: str) -> Path:
    """Return the file of a folder with this name, in upper or lower case."""
    if (folder / name).exists():
        return folder / name
    return next((child for child in sorted(folder.iterdir()) if child.name.lower() == name), folder / name)


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
    entries, rejects = [], []
    for number, (file, prompt) in enumerate(zip(files, prompts), start=1):
        if file:
            entries.append(_entry(find_file(folder, file), caption_of(prompt, f"in line {number} of prompts.txt")))
        else:
            rejects.append((f"{lists[0]}, line {number}", "it names no file"))
    return FolderContents(f"prompts.txt + {lists[0]}", entries, rejects, notes)


def _labels(folder: Path) -> FolderContents:
    videos, labels = list_files(folder / "videos"), list_files(folder / "labels")
    entries = []
    for file in videos.media:
        label = labels.beside(folder / "labels" / file.relative_to(folder / "videos"), ".txt")
        entries.append(_entry(file, Caption() if label is None else read_caption(label)))
    return _contents(folder, "videos/ + labels/", entries, videos)


def _side_by_side(folder: Path) -> FolderContents:
    files, entries, rejects = list_files(folder), [], []
    videos = {file.with_suffix(""): file for file in files.media if file.suffix.lower() in VIDEOS}
    for file in files.media:
        owner = videos.get(file.with_suffix(""), file)
        if owner != file:
            rejects.append((str(file), f"the caption beside it belongs to {owner.name}"))
        else:
            entries.append(_entry(file, _caption_beside(file, files)))
    no_captions = all(entry.caption is None and entry.caption_problem is None for entry in entries)
    if not videos and no_captions:
        images = [FolderEntry(entry.source, "") for entry in entries]
        return _contents(folder, "images without captions", images, files)
    present = (("a.mp4", bool(videos)), ("a.png", len(entries) > len(videos)))
    kinds = " and ".join(name for name, is_present in present if is_present)
    return _contents(folder, f"{kinds} + a.txt", entries, files, rejects)


def _entry(file: Path, caption: Caption) -> FolderEntry:
    return FolderEntry(file, caption.text, caption_problem=caption.problem)


def _contents(
    folder: Path,
    layout: str,
    entries: list[FolderEntry],
    files: FolderFiles,
    rejects: list[tuple[str, str]] | None = None,
) -> FolderContents:
    rejects = [*(rejects or []), *files.rejects]
    if not entries and not rejects:
        raise UserError(
            f"there are no videos or images in {folder}; known layouts are prompts.txt + videos.txt, a.mp4 + a.txt, "
            f"videos/ + labels/, images, and metadata{', metadata'.join(TABLES)}"
            + "".join(f"; note: {note}" for note in files.notes)
        )
    return FolderContents(layout, entries, rejects, files.notes)


def _caption_beside(file: Path, files: FolderFiles) -> Caption:
    if (text_file := files.beside(file, ".txt")) is not None:
        return read_caption(text_file)
    if (sidecar := files.beside(file, ".json")) is not None:
        return _prompt(sidecar)
    return Caption()


def _prompt(path: Path) -> Caption:
    """Return the prompt in a JSON sidecar, if it has one."""
    try:
        with reading(path, "damaged"):
            prompt = parse_json(read_text(path))["prompt"]
    except UserError:
        return Caption()
    return caption_of(prompt, path.name) if isinstance(prompt, str) else Caption()


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file, without trailing empty lines."""
    with reading(path, "damaged"):
        text = decode(read_bytes(path, "TABLE_BYTES")).rstrip()
    return [line.strip() for line in split_lines(text)] if text else []
