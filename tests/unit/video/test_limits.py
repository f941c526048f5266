"""Small files that declare many pixels, long durations or gaps. Limits are checked before allocating memory."""

import resource
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cogvideox.errors import UserError
from cogvideox.video import io

IMAGES = ["x.png", "x.jpg", "x.gif", "x.webp", "x.tif", "x.bmp"]
VIDEOS = ["x.mp4", "x.mkv", "x.avi", "x.webm", "x.mov"]


def write_video(path: Path, times: list[float], size: int = 64) -> Path:
    """Write a video with frames at the given times, in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=25)
        stream.height = stream.width = size
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_large_png(path: Path, width: int, height: int) -> Path:
    """Write a PNG of a few bytes whose header declares this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("name", IMAGES)
def test_images_above_limit_are_rejected(tmp_path, monkeypatch, name):
    Image.new("RGB", (40, 30)).save(tmp_path / name)
    assert io.read_image(tmp_path / name).shape == (30, 40, 3)
    monkeypatch.setenv("COGVIDEOX_MAX_PIXELS", "1199")
    with pytest.raises(UserError, match=r"its size of 40x30 pixels is above the limit of 1,199; COGVIDEOX_MAX_PIXELS"):
        io.read_image(tmp_path / name)


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_above_limit_are_rejected(tmp_path, monkeypatch, name):
    path = write_video(tmp_path / name, [0.0, 0.04, 0.08])
    assert io.read(path)[0].shape[1:] == (64, 64, 3)
    for name, readers in (("FRAME_PIXELS", (io.probe, io.read)), ("PIXELS", (io.read_image,))):
        monkeypatch.setenv(f"COGVIDEOX_MAX_{name}", "4095")
        for read in readers:
            with pytest.raises(UserError, match=f"above the limit of 4,095; COGVIDEOX_MAX_{name}"):
                read(path)


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (30_000, 30_000), (60_000, 60_000)])
def test_a_large_image_allocates_no_memory(tmp_path, width, height):
    path = write_large_png(tmp_path / "x.png", width, height)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (io.probe, io.read, io.read_image):
        with pytest.raises(UserError, match="above the limit of 100,000,000; COGVIDEOX_MAX_PIXELS raises it"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_total_pixels_are_limited(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mkv", [k / 25 for k in range(9)])
    monkeypatch.setenv("COGVIDEOX_MAX_VIDEO_PIXELS", str(5 * 64 * 64))
    with pytest.raises(UserError, match="the number of pixels in all its frames is above the limit of 20,480"):
        io.read(path)
    assert len(io.read(path, max_frames=5)[0]) == 5
    assert len(io.read(path, transform=lambda frame: frame[::2, ::2])[0]) == 9


@pytest.mark.parametrize("gap", [61, 10_000, 40_000])
def test_frame_gaps_are_limited(tmp_path, monkeypatch, gap):
    path = write_video(tmp_path / "x.mkv", [0.0, 0.04, gap, gap + 0.04])
    with pytest.raises(UserError, match=r"between two frames is above the limit of 60; .*_FRAME_GAP raises it"):
        io.read(path, fps=8.0)
    with pytest.raises(UserError, match=r"above the limit of 60; .*_FRAME_GAP raises it"):
        io.check_gaps(path)
    io.check_gaps(path, end=50.0)
    io.check_gaps(path, start=gap - 50.0)
    assert len(io.read(path, end=0.1, max_frames=1)[0]) == 1  # ends before the gap
    assert len(io.read(path, start=float(gap), fps=8.0)[0]) == 1
    monkeypatch.setenv("COGVIDEOX_MAX_FRAME_GAP", str(gap))
    assert len(io.read(path, fps=8.0, max_frames=20)[0]) == 20


def test_gaps_outside_the_segment_are_accepted(tmp_path):
    path = write_video(tmp_path / "x.mkv", [0.0, 50.0, 150.0, 150.04])
    with pytest.raises(UserError, match="the gap of 100 s between two frames is above the limit of 60"):
        io.check_gaps(path)
    io.check_gaps(path, start=100.0)
    io.check_gaps(path, end=100.0)


def test_video_duration_is_limited(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mkv", [0.0, 24 * 3600.0])
    with pytest.raises(UserError, match=r"its length of 86,400 s is above the limit of 86,400; .*VIDEO_SECONDS"):
        io.probe(path)
    monkeypatch.setenv("COGVIDEOX_MAX_VIDEO_SECONDS", "1e6")
    assert io.probe(path).seconds > 86_400
