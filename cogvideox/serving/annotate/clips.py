"""Clips of a curation, and copies that browsers can play: H.264, at most 480 rows, at most 15 seconds."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cogvideox.curation.manifest import read_manifest
from cogvideox.curation.run import RUN
from cogvideox.errors import UserError
from cogvideox.untrusted.files import read_json

CACHE = "annotate"
MAX_HEIGHT = 480
MAX_SECONDS = 15.0


@dataclass(frozen=True)
class AnnotatedClip:
    """A clip: a part of a file, in seconds."""

    id: str
    path: Path
    start: float
    end: float


class Clips:
    """The clips of a curation's output folder, in the order of the manifest."""

    def __init__(self, output: Path, raw: Path | None = None) -> None:
        """Read the manifest.

        Args:
            raw: folder of the raw files; None uses the folder recorded by the curation.

        Raises:
            UserError: there is no manifest, it has no clips, or the raw folder is not known.
        """
        names = ("id", "source", "clip_file", "start", "end", "index")
        table = read_manifest(output, names)
        columns = {
            name: table[name].to_pylist() if name in table.column_names else [None] * len(table) for name in names
        }
        if raw is None and any(file is None for file in columns["clip_file"]):
            raw = _raw_folder(output)
        self.cache = output / CACHE
        self.by_id: dict[str, AnnotatedClip] = {}
        for id, source, clip_file, start, end, index in zip(*(columns[name] for name in names)):
            if index is None or start is None:
                continue
            if clip_file is not None:
                self.by_id[id] = AnnotatedClip(id, output / clip_file, 0.0, end - start)
            else:
                assert raw is not None
                self.by_id[id] = AnnotatedClip(id, raw / source, start, end)
        if not self.by_id:
            raise UserError(f"{output} has no clips to annotate")
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def playable(self, id: str) -> Path:
        """Return a copy of a clip that browsers can play, and write it first if needed. Safe for several threads.

        Raises:
            UserError: the clip cannot be read.
        """
        from cogvideox.video import stream, transcode

        clip, path = self.by_id[id], self.cache / f"{id}.mp4"
        with self._guard:
            lock = self._locks.setdefault(id, threading.Lock())
        with lock:
            if not path.is_file():
                self.cache.mkdir(exist_ok=True)
                end = max(min(clip.end, clip.start + MAX_SECONDS), clip.start + 1e-3)
                frames = _reduced(stream.frames(clip.path, clip.start, end))
                if not transcode.write_frames(path, frames, clip.start, crf=20):
                    raise UserError(f"the clip {id} has no frames")
        return path


def _reduced(frames: Iterator) -> Iterator:
    """Yield timed frames with at most `MAX_HEIGHT` rows."""
    import numpy as np
    import torch

    from cogvideox.video.transform import resize

    for frame in frames:
        rgb = frame.rgb()
        height, width = rgb.shape[:2]
        if height > MAX_HEIGHT:
            width = max(2, round(width * MAX_HEIGHT / height / 2) * 2)
            pixels = torch.from_numpy(np.ascontiguousarray(rgb))[None]
            rgb = resize(pixels, MAX_HEIGHT, width, "stretch")[0].numpy()
        yield replace(frame, rgb=lambda pixels=rgb: pixels)


def _raw_folder(output: Path) -> Path:
    try:
        return output / read_json(output / RUN)["raw"]
    except (UserError, KeyError, TypeError):
        raise UserError(f"{output} does not record the folder of the raw files: pass it with --raw") from None
