import ctypes
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.records import Video
from cogvideox.video import io

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (30, 60, 200), (128, 128, 128), (0, 0, 0)]


def solid_frames(colors=COLORS, height=64, width=64):
    """Return a video of solid colors, one per frame."""
    return np.stack([np.full((height, width, 3), color, dtype=np.uint8) for color in colors])


def smooth(num_frames=9, height=64, width=64):
    """Return a smooth moving pattern, which codecs preserve well."""
    t, y, x = np.mgrid[0:num_frames, 0:height, 0:width]
    waves = [np.sin(x / 12 + t / 3 + c) + np.cos(y / 15 - t / 4 + 2 * c) for c in range(3)]
    return ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_mp4_round_trip(tmp_path):
    frames = smooth()
    Video(frames, fps=8.0).save(tmp_path / "x.mp4")
    video = Video.load(tmp_path / "x.mp4")
    assert video.fps == 8
    assert video.frames.shape == frames.shape
    assert psnr(video.frames, frames) > 37
    assert io.probe(tmp_path / "x.mp4") == io.VideoInfo(9, 8.0, 9 / 8, 64, 64, "h264")


def test_mp4_has_the_format_that_browsers_require(tmp_path):
    Video(smooth(), fps=8.0).save(tmp_path / "x.mp4")
    data = (tmp_path / "x.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # can play before it is fully loaded
    with av.open(str(tmp_path / "x.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_range) == (1, 1)  # BT.709, limited range


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.png"])
def test_equal_frames_give_equal_files(tmp_path, name):
    """Output must not depend on uninitialized memory. For mp4 this can only fail on CPUs with AVX-512."""
    fill = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if fill is None:
        pytest.skip("mallopt is not available to fill memory")
    files = set()
    try:
        for byte in (0x01, 0x55, 0xAA, 0xFF):
            fill(-6, byte)  # M_PERTURB of glibc: allocated memory is filled with the complement of this byte
            Video(smooth(), fps=8.0).save(tmp_path / name)
            files.add((tmp_path / name).read_bytes())
    finally:
        fill(-6, 0)
    assert len(files) == 1


def test_mp4_is_written_without_mbtree(tmp_path):
    """This part of x264 reads uninitialized memory (see above). x264 writes its settings into the file."""
    Video(smooth(), fps=8.0).save(tmp_path / "x.mp4")
    assert b" mbtree=0 " in (tmp_path / "x.mp4").read_bytes()


@pytest.mark.parametrize("size", [(64, 64), (720, 1280)])
def test_colors_round_trip(tmp_path, size):
    Video(solid_frames(COLORS, *size), fps=8.0).save(tmp_path / "x.mp4")
    error = Video.load(tmp_path / "x.mp4").frames.astype(int) - solid_frames(COLORS, *size)
    assert np.abs(error).max() <= 2


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colors_are_read_in_the_color_space_of_the_file(tmp_path, matrix, color_range):
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "5"}
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for image in solid_frames():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            options = {"dst_colorspace": matrix, "src_color_range": 2, "dst_color_range": color_range}
            container.mux(stream.encode(frame.reformat(format="yuv420p", **options)))
        container.mux(stream.encode())
    assert np.abs(Video.load(tmp_path / "x.mp4").frames.astype(int) - solid_frames()).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(63, 65), (8, 8), (2, 3), (1, 1)])
def test_odd_and_tiny_sizes_are_written(tmp_path, height, width):
    frames = smooth(5, height, width)
    Video(frames, fps=8.0).save(tmp_path / "x.mp4")
    loaded = Video.load(tmp_path / "x.mp4").frames
    assert loaded.shape == (5, height + height % 2, width + width % 2, 3)


@pytest.mark.parametrize("fps", [0.5, 7.5, 23.976, 29.97, 30.0, 60.0])
def test_mp4_stores_frame_rate(tmp_path, fps):
    Video(smooth(7), fps=fps).save(tmp_path / "x.mp4")
    video = Video.load(tmp_path / "x.mp4")
    assert video.fps == pytest.approx(fps, rel=1e-4)
    assert len(video.frames) == 7


def test_single_frame_mp4(tmp_path):
    for suffix in (".mp4", ".gif"):
        Video(smooth(1), fps=8.0).save(tmp_path / f"x{suffix}")
        assert Video.load(tmp_path / f"x{suffix}").frames.shape == (1, 64, 64, 3)


def test_gif_keeps_duration_and_colors(tmp_path):
    frames = smooth(16)
    Video(frames, fps=8.0).save(tmp_path / "x.gif")
    info = io.probe(tmp_path / "x.gif")
    assert (info.num_frames, info.codec) == (16, "gif")
    assert info.seconds == pytest.approx(2, abs=0.02)
    assert psnr(Video.load(tmp_path / "x.gif").frames, frames) > 28
    assert b"NETSCAPE2.0\x03\x01\x00\x00" in (tmp_path / "x.gif").read_bytes()  # loops forever


def test_a_gif_above_50_fps_warns(tmp_path):
    with pytest.warns(UserWarning, match="at most 50 fps"):
        Video(smooth(), fps=60.0).save(tmp_path / "x.gif")
    assert io.probe(tmp_path / "x.gif").num_frames == 9


def test_png_of_one_frame_is_lossless(tmp_path):
    frames = smooth(1, 37, 53)
    Video(frames, fps=1.0).save(tmp_path / "x.png")
    assert np.array_equal(Video.load(tmp_path / "x.png").frames, frames)


def test_float_frames_are_rounded(tmp_path):
    frames = np.array([0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.2, -1.0], dtype=np.float32)
    Video(np.broadcast_to(frames[None, None, :, None], (1, 2, 6, 3)), fps=1.0).save(tmp_path / "x.png")
    assert Video.load(tmp_path / "x.png").frames[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255, 0]


@pytest.fixture
def counting(tmp_path):
    """A video of 3 s at 24 fps with a key frame every 12 frames; frame i has the gray value 3 i."""
    path = tmp_path / "counting.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "0", "g": "12"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for i in range(72):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(solid_frames([(3 * i,) * 3], 32, 32)[0], format="rgb24"))
            )
        container.mux(stream.encode())
    return path


def frame_indices(video):
    return [round(float(frame.mean()) / 3) for frame in video.frames]


def test_read_segment_of_video(counting):
    assert frame_indices(Video.load(counting)) == list(range(72))
    assert frame_indices(Video.load(counting, start=1.0, end=1.25)) == [24, 25, 26, 27, 28, 29]
    assert frame_indices(Video.load(counting, start=2.75)) == list(range(66, 72))
    assert frame_indices(Video.load(counting, end=0.1)) == [0, 1, 2]
    assert frame_indices(Video.load(counting, start=1.0, max_frames=2)) == [24, 25]


def test_resampling_selects_nearest_frames(counting):
    eight = Video.load(counting, fps=8.0)
    assert eight.fps == 8
    assert frame_indices(eight) == list(range(0, 72, 3))
    assert frame_indices(Video.load(counting, start=0.5, end=1.0, fps=16.0)) == [12, 14, 15, 17, 18, 20, 21, 23]
    assert frame_indices(Video.load(counting, end=0.125, fps=48.0)) == [
        0,
        1,
        1,
        2,
        2,
        3,
    ]  # halfway between two frames, the later one


@pytest.mark.parametrize("fps", [0.0, -1.0, 0.0004, float("inf"), float("nan")])
def test_frame_rates_that_cannot_be_written_are_rejected(tmp_path, fps):
    with pytest.raises(UserError, match="must be above 0"):
        io.write(tmp_path / "x.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps)
    assert list(tmp_path.iterdir()) == []


def test_variable_frame_rate_keeps_timing(tmp_path):
    path = tmp_path / "x.mkv"
    times = [0, 40, 80, 500, 1000, 1040, 1080, 1900]  # milliseconds
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(solid_frames([(30 * i,) * 3], 32, 32)[0], format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = Video.load(path, fps=10.0)
    levels = [round(float(frame.mean()) / 30) for frame in video.frames]
    nearest = [min(range(8), key=lambda i: abs(times[i] - 100 * k)) for k in range(len(levels))]
    assert 19 <= len(levels) <= 20
    assert levels == nearest
    assert len(Video.load(path).frames) > 1


def test_rotated_videos_are_read_upright(tmp_path):
    path = tmp_path / "x.mp4"
    frames = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    frames[:, :, :16] = 255  # a white bar at the left
    Video(frames, fps=8.0).save(path)
    data = bytearray(path.read_bytes())
    # The display matrix of the track header, as written by phones: a clockwise rotation by 90 degrees.
    one_fixed, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    upright = one_fixed + zero + zero + zero + one_fixed + zero
    rotated = zero + one_fixed + zero + (-(1 << 16)).to_bytes(4, "big", signed=True) + zero + zero
    start = data.index(upright, data.index(b"tkhd"))
    data[start : start + len(upright)] = rotated
    path.write_bytes(data)
    video = Video.load(path)
    assert video.frames.shape == (3, 64, 32, 3)
    assert video.frames[0, :8].mean() > 200  # the left has become the top
    assert video.frames[0, -8:].mean() < 50
    assert (io.probe(path).height, io.probe(path).width) == (64, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 2.0, "end": 1.0}, "the start must be at least 0 and before the end"),
        ({"start": -1.0}, "the start must be at least 0 and before the end"),
        ({"start": 9.0}, "has no frame between 9 s and inf s: it is 3 s long"),
        ({"fps": 0.0}, "fps=0 must be above 0"),
        ({"fps": float("nan")}, "fps=nan must be above 0"),
        ({"max_frames": 0}, "max_frames=0 must be 1 or more"),
    ],
)
def test_invalid_segment_raises_user_error(counting, options, message):
    with pytest.raises(UserError) as caught:
        Video.load(counting, **options)
    assert message in str(caught.value)


def test_unreadable_files_raise_user_errors(tmp_path, counting):
    cases = {
        tmp_path / "none.mp4": "file not found",
        tmp_path: "it is a folder",
        tmp_path / "text.mp4": "it is damaged or not a video",
        tmp_path / "empty.mp4": "it is damaged or not a video",
        tmp_path / "cut.mp4": "it is damaged or not a video",
    }
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(counting.read_bytes()[:2000])  # its index is at the end
    for path, message in cases.items():
        for function in (io.read, io.probe):
            with pytest.raises(UserError) as caught:
                function(path)
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)


def test_audio_files_are_rejected(tmp_path):
    path = tmp_path / "x.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match="it contains no video"):
        Video.load(path)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_an_interrupted_save_leaves_no_files(tmp_path, monkeypatch, suffix):
    def write_half(path, frames, fps):
        write(path, frames, fps)
        path.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    write = io.FORMATS[suffix]
    monkeypatch.setitem(io.FORMATS, suffix, write_half)
    with pytest.raises(KeyboardInterrupt):
        Video(smooth(), 8.0, {"seed": 1}).save(tmp_path / f"x{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x.avi", "x", "x.MP5"])
def test_unknown_suffix_raises_user_error(tmp_path, name):
    with pytest.raises(UserError, match=r"the name of a video must end in \.mp4, \.gif, \.png"):
        Video(smooth(), fps=8.0).save(tmp_path / name)
    assert names(tmp_path) == []
