"""Videos in the report's page: each is embedded once, with a poster frame."""

import base64
import html
import tempfile
from pathlib import Path

import numpy as np
import torch

from cogvideox.errors import UserError
from cogvideox.evaluation.results import VideoResult
from cogvideox.evaluation.videos import PAIRS
from cogvideox.records import Video
from cogvideox.video.jpeg import encode_jpeg
from cogvideox.video.transform import resize

MAX_FILE_BYTES = 300_000
"""Larger files are embedded with a shorter side of `SIDE` pixels."""
SIDE = 192
MAX_BYTES = 24_000_000
"""Bytes of all videos; beyond it, only poster frames are embedded."""


class EmbeddedVideos:
    """Data URIs of videos by id, added by `tag`.

    Attributes:
        sources: data URI of the video ("" if there is no more space for it) and of its poster.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, tuple[str, str]] = {}
        self._size = 0

    def tag(self, video: VideoResult) -> str:
        """Return the HTML element of a video."""
        if video.id not in self.sources:
            pair = self.folder / PAIRS / f"{video.id}.mp4"
            try:
                self.sources[video.id] = (
                    self._embed(pair)
                    if pair.is_file()
                    else self._embed(self.folder / video.file, video.info.get("start"), video.info.get("end"))
                )
            except UserError:  # the file was removed
                self.sources[video.id] = "", ""
        id = html.escape(video.id, quote=True)
        return f"<video data-id='{id}' controls loop muted playsinline preload='none'></video>"

    def _embed(self, path: Path, start: float | None = None, end: float | None = None) -> tuple[str, str]:
        video = Video.load(path, start, end)
        poster = _uri("image/jpeg", encode_jpeg(video.frames[len(video.frames) // 2], longest_side=SIDE, quality=80))
        is_whole = start is None and end is None
        is_small = is_whole and path.suffix.lower() == ".mp4" and path.stat().st_size <= MAX_FILE_BYTES
        data = path.read_bytes() if is_small else _small(video)
        self._size += len(data)
        return _uri("video/mp4", data) if self._size <= MAX_BYTES else "", poster


def _small(video: Video) -> bytes:
    height, width = video.frames.shape[1:3]
    scale = min(1.0, SIDE / min(height, width))
    height, width = (max(2, round(side * scale / 2) * 2) for side in (height, width))
    frames = resize(torch.from_numpy(video.frames), height, width, "stretch").numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        Video(np.ascontiguousarray(frames), video.fps).save(path)
        return path.read_bytes()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
