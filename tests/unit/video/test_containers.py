"""Properties of containers that FFmpeg reports wrongly, or that PyAV does not expose."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image

from cogvideox.video import io
from cogvideox.video.reading import containers
from tests.media import patches
from tests.unit.video.test_players import MATRICES, H, W, encode, grays, near, sample_image


@pytest.mark.parametrize(
    ("codec", "b_frames", "num_frames"),
    [("mpeg1video", "2", 4000), ("mpeg1video", "0", 1000), ("mpeg1video", "1", 1000), ("mpeg2video", "0", 1000)],
)
def test_long_program_streams_have_a_constant_rate(tmp_path, codec, b_frames, num_frames):
    """Few of their frames have timestamps, and FFmpeg assigns some of them to the wrong frame."""
    path = tmp_path / "x.mpg"
    times = [k / 25 for k in range(num_frames)]
    encode(path, times, codec, Fraction(1, 25), bf=b_frames, g="8", qmin="1", qmax="1")
    info = io.probe(path)
    assert (info.num_frames, info.fps, round(info.seconds, 3)) == (num_frames, 25, num_frames / 25)
    if num_frames < 2000:
        assert [frame.time for frame in containers.timed_frames(path)] == pytest.approx(times)


def test_program_streams(tmp_path):
    path = tmp_path / "x.mpg"
    encode(path, [k / 25 for k in range(24)], "mpeg1video", Fraction(1, 25), bf="2", g="8", qmin="1", qmax="1")
    info = io.probe(path)
    assert (info.num_frames, info.fps, round(info.seconds, 3)) == (24, 25, 0.96)
    assert grays(io.read(path)[0]) == list(range(24))
    for first in (0, 3, 9, 17, 22):
        assert grays(io.read(path, start=first / 25, max_frames=2)[0]) == [first, first + 1]


@pytest.mark.parametrize(("suffix", "codec"), [(".m1v", "mpeg1video"), (".m2v", "mpeg2video"), (".h264", "libx264")])
def test_raw_streams_have_a_constant_rate(tmp_path, suffix, codec):
    path = tmp_path / f"x{suffix}"
    encode(path, [k / 25 for k in range(20)], codec, Fraction(1, 25), bf="2", g="8")
    info = io.probe(path)
    assert (info.num_frames, info.fps, info.seconds) == (20, 25, pytest.approx(0.8))
    times = [k / 25 for k in range(20)]
    assert [frame.time for frame in containers.timed_frames(path)] == pytest.approx(times)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_the_edit_list_ends_the_last_frame(tmp_path, suffix, b_frames):
    """With B-frames, the duration of a packet is a distance of decoding times."""
    times = [k / 25 for k in range(10)] + [0.4 + 0.18 * k for k in range(8)]
    path = encode(tmp_path / f"x{suffix}", times, bf=b_frames, crf="0")
    data = path.read_bytes()
    for header, offset in ((b"mvhd", 20), (b"tkhd", 24)):
        at = data.index(header) + offset
        data = data[:at] + round(1000 * (times[-1] + 0.02)).to_bytes(4, "big") + data[at + 4 :]
    path.write_bytes(data)
    assert io.probe(path).seconds == pytest.approx(times[-1] + 0.02, abs=0.002)
    last = list(containers.timed_frames(path))[-1]
    assert (last.time, last.seconds) == pytest.approx((times[-1], 0.02), abs=0.002)


@pytest.mark.parametrize("matrix", MATRICES)
def test_matroska_stores_display_matrices(tmp_path, matrix):
    original, path = tmp_path / "x.mp4", tmp_path / "x.mkv"
    io.write(original, np.stack([sample_image()] * 3), 8.0)
    original.write_bytes(patches.matrix(matrix)(original.read_bytes()))
    copy(original, path)
    assert near(io.read(path)[0][1], MATRICES[matrix](sample_image()), 6)


@pytest.mark.parametrize(
    ("rotate", "flip", "matrix"),
    [
        *((90, "", (0, -1, 1, 0)), (180, "", (-1, 0, 0, -1)), (270, "", (0, 1, -1, 0))),
        *((0, ":flip=horizontal", (-1, 0, 0, 1)), (0, ":flip=vertical", (1, 0, 0, -1))),
        *((90, ":flip=horizontal", (0, 1, 1, 0)), (90, ":flip=vertical", (0, -1, -1, 0))),
    ],
)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_orientations_stored_by_the_codec(tmp_path, suffix, rotate, flip, matrix):
    """Only the first frame may store it."""
    original, path = write(tmp_path / "x.mp4"), tmp_path / f"y{suffix}"
    copy(original, path, f"h264_metadata=display_orientation=insert:rotate={rotate}{flip}")
    expected = MATRICES[matrix](sample_image())
    assert near(io.read(path)[0][0], expected, 6)
    assert near(io.read(path, start=1.1)[0][0], expected, 6)


def write(path):
    """Write a sample image 12 times, at 8 fps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(sample_image(), format="rgb24")))
        container.mux(stream.encode())
    return path


def copy(source_path, target_path, bitstream_filter="null"):
    """Copy the packets of a video into another container."""
    with av.open(str(source_path)) as source, av.open(str(target_path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        filter_context = BitStreamFilterContext(bitstream_filter, source.streams.video[0])
        for packet in source.demux(video=0):
            for filtered in filter_context.filter(packet if packet.dts is not None else None):
                filtered.stream = video
                target.mux(filtered)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0)])
def test_clean_apertures_crop(tmp_path, suffix, matrix):
    path = write(tmp_path / f"x{suffix}")
    crop = patches.aperture((10, 4, 6, 2), (H, W))
    path.write_bytes(crop(patches.matrix(matrix)(path.read_bytes())))
    expected = MATRICES[matrix](sample_image()[4:-2, 10:-6])
    assert (io.probe(path).height, io.probe(path).width) == expected.shape[:2]
    assert near(io.read(path)[0][1], expected, 6)


@pytest.mark.parametrize(
    ("name", "visible"),
    [
        *((b"\x54\xcc", np.s_[:, 10:]), (b"\x54\xbb", np.s_[10:])),
        *((b"\x54\xdd", np.s_[:, :-10]), (b"\x54\xaa", np.s_[:-10])),
    ],
)
def test_crops_of_matroska(tmp_path, name, visible):
    path = write(tmp_path / "x.mkv")
    display_unit = b"\x54\xb2"
    path.write_bytes(patches.matroska_element(display_unit, name, 10)(path.read_bytes()))
    assert near(io.read(path)[0][5], sample_image()[visible], 6)


@pytest.mark.parametrize("crop", [(W, 0, 0, 0), (24, 0, 24, 0), (0, H, 0, 0), (-1, 0, 0, 0)])
def test_invalid_crops_are_ignored(tmp_path, crop):
    path = write(tmp_path / "x.mp4")
    path.write_bytes(patches.aperture((0, 0, 0, 0), (H, W))(path.read_bytes()))
    data, (left, top, right, bottom) = path.read_bytes(), crop
    at = data.index(b"clap") + 4
    numbers = (W - left - right, 1, H - top - bottom, 1, left - right, 2, top - bottom, 2)
    box = b"".join((number % 2**32).to_bytes(4, "big") for number in numbers)
    path.write_bytes(data[:at] + box + data[at + 32 :])
    assert io.read(path)[0].shape == (12, H, W, 3)


def test_frames_are_freed(tmp_path):
    """PyAV keeps a frame whose side data were read until the garbage collector runs."""
    path = encode(tmp_path / "x.mp4", [k / 25 for k in range(20)], "mpeg4", Fraction(1, 25))
    gc.collect()
    gc.disable()
    try:
        for frame in containers.timed_frames(path):
            frame.rgb()
        alive = sum(isinstance(item, av.VideoFrame) for item in gc.get_objects())
    finally:
        gc.enable()
    assert alive <= 3


@pytest.mark.parametrize(("delay", "seconds"), [(0, 0.1), (1, 0.1), (2, 0.02), (10, 0.1), (50, 0.5)])
def test_gifs_without_a_delay_are_shown_at_10_fps(tmp_path, delay, seconds):
    """As in browsers. Newer versions of FFmpeg do not replace the delay."""
    path = tmp_path / "x.gif"
    first, *others = (Image.new("L", (W, H), 40 * k) for k in range(6))
    first.save(path, save_all=True, append_images=others, duration=10 * delay)
    info = io.probe(path)
    assert (info.num_frames, info.seconds) == (6, pytest.approx(6 * seconds))
    times = [frame.time for frame in containers.timed_frames(path)]
    assert times == pytest.approx([k * seconds for k in range(6)])
    assert len(io.read(path, start=2.5 * seconds, fps=1 / seconds)[0]) == 4


def test_short_joined_recordings_continue(tmp_path):
    part = encode(tmp_path / "a.ts", [k / 25 for k in range(20)], tick=Fraction(1, 25), crf="0").read_bytes()
    (tmp_path / "x.ts").write_bytes(part * 3)
    info = io.probe(tmp_path / "x.ts")
    assert (info.num_frames, info.seconds) == (60, pytest.approx(2.4, abs=0.1))
    assert len(io.read(tmp_path / "x.ts")[0]) == pytest.approx(60, abs=2)
