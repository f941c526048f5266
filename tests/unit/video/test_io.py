import ctypes
import signal
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.records import Video
from cogvideox.video import io

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (30, 60, 200), (128, 128, 128), (0, 0, 0)]


def flat(colours=COLOURS, height=64, width=64):
    """A video whose frames are of one colour each."""
    return np.stack([np.full((height, width, 3), colour, dtype=np.uint8) for colour in colours])


def smooth(num_frames=9, height=64, width=64):
    """A soft moving pattern, such as codecs like."""
    t, y, x = np.mgrid[0:num_frames, 0:height, 0:width]
    waves = [np.sin(x / 12 + t / 3 + c) + np.cos(y / 15 - t / 4 + 2 * c) for c in range(3)]
    return ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_mp4_comes_back(tmp_path):
    frames = smooth()
    Video(frames, fps=8.0).save(tmp_path / "x.mp4")
    video = Video.load(tmp_path / "x.mp4")
    assert video.fps == 8
    assert video.frames.shape == frames.shape
    assert psnr(video.frames, frames) > 37
    assert io.probe(tmp_path / "x.mp4") == io.Info(9, 8.0, 9 / 8, 64, 64, "h264")


def test_mp4_is_what_every_player_opens(tmp_path):
    Video(smooth(), fps=8.0).save(tmp_path / "x.mp4")
    data = (tmp_path / "x.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded to the end
    with av.open(str(tmp_path / "x.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_range) == (1, 1)  # BT.709, limited range


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.png"])
def test_the_same_frames_make_the_same_file(tmp_path, name):
    """Whatever was in the memory that the encoder is given. Of mp4 that is a question only where there is AVX-512."""
    fill = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if fill is None:
        pytest.skip("no mallopt to fill the memory by")
    files = set()
    try:
        for byte in (0x01, 0x55, 0xAA, 0xFF):
            fill(-6, byte)  # M_PERTURB of glibc: what is allocated holds the complement of this byte
            Video(smooth(), fps=8.0).save(tmp_path / name)
            files.add((tmp_path / name).read_bytes())
    finally:
        fill(-6, 0)
    assert len(files) == 1


def test_mp4_is_made_without_mbtree(tmp_path):
    """The part of x264 by which the same frames made other files, see above; it writes its settings into the file."""
    Video(smooth(), fps=8.0).save(tmp_path / "x.mp4")
    assert b" mbtree=0 " in (tmp_path / "x.mp4").read_bytes()


@pytest.mark.parametrize("size", [(64, 64), (720, 1280)])
def test_colours_survive_the_file(tmp_path, size):
    Video(flat(COLOURS, *size), fps=8.0).save(tmp_path / "x.mp4")
    error = Video.load(tmp_path / "x.mp4").frames.astype(int) - flat(COLOURS, *size)
    assert np.abs(error).max() <= 2


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("colour_range", [1, 2])
def test_colours_are_read_as_the_file_says(tmp_path, matrix, colour_range):
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "5"}
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, colour_range
        for picture in flat():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            kind = {"dst_colorspace": matrix, "src_color_range": 2, "dst_color_range": colour_range}
            container.mux(stream.encode(frame.reformat(format="yuv420p", **kind)))
        container.mux(stream.encode())
    assert np.abs(Video.load(tmp_path / "x.mp4").frames.astype(int) - flat()).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(63, 65), (8, 8), (2, 3), (1, 1)])
def test_odd_and_tiny_sizes_are_written(tmp_path, height, width):
    frames = smooth(5, height, width)
    Video(frames, fps=8.0).save(tmp_path / "x.mp4")
    back = Video.load(tmp_path / "x.mp4").frames
    assert back.shape == (5, height + height % 2, width + width % 2, 3)


@pytest.mark.parametrize("fps", [0.5, 7.5, 23.976, 29.97, 30.0, 60.0])
def test_rates_of_mp4(tmp_path, fps):
    Video(smooth(7), fps=fps).save(tmp_path / "x.mp4")
    video = Video.load(tmp_path / "x.mp4")
    assert video.fps == pytest.approx(fps, rel=1e-4)
    assert len(video.frames) == 7


def test_one_frame_is_a_video(tmp_path):
    for suffix in (".mp4", ".gif"):
        Video(smooth(1), fps=8.0).save(tmp_path / f"x{suffix}")
        assert Video.load(tmp_path / f"x{suffix}").frames.shape == (1, 64, 64, 3)


def test_gif_keeps_pace_and_colours(tmp_path):
    frames = smooth(16)
    Video(frames, fps=8.0).save(tmp_path / "x.gif")
    info = io.probe(tmp_path / "x.gif")
    assert (info.num_frames, info.codec) == (16, "gif")
    assert info.seconds == pytest.approx(2, abs=0.02)
    assert psnr(Video.load(tmp_path / "x.gif").frames, frames) > 28
    assert b"NETSCAPE2.0\x03\x01\x00\x00" in (tmp_path / "x.gif").read_bytes()  # loops forever


def test_a_gif_faster_than_the_format_says_so(tmp_path):
    with pytest.warns(UserWarning, match="at most 50 frames a second"):
        Video(smooth(), fps=60.0).save(tmp_path / "x.gif")
    assert io.probe(tmp_path / "x.gif").num_frames == 9


def test_png_of_one_frame_is_that_frame(tmp_path):
    frames = smooth(1, 37, 53)
    Video(frames, fps=1.0).save(tmp_path / "x.png")
    assert np.array_equal(Video.load(tmp_path / "x.png").frames, frames)


def test_float_frames_are_rounded(tmp_path):
    frames = np.array([0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.2, -1.0], dtype=np.float32)
    Video(np.broadcast_to(frames[None, None, :, None], (1, 2, 6, 3)), fps=1.0).save(tmp_path / "x.png")
    assert Video.load(tmp_path / "x.png").frames[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255, 0]


@pytest.fixture
def counting(tmp_path):
    """Three seconds at 24 a second; frame i has the grey value 3 i. A key frame every 12."""
    path = tmp_path / "counting.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "0", "g": "12"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for i in range(72):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(flat([(3 * i,) * 3], 32, 32)[0], format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(video):
    return [round(float(frame.mean()) / 3) for frame in video.frames]


def test_a_window_holds_the_frames_of_its_time(counting):
    assert numbers(Video.load(counting)) == list(range(72))
    assert numbers(Video.load(counting, start=1.0, end=1.25)) == [24, 25, 26, 27, 28, 29]
    assert numbers(Video.load(counting, start=2.75)) == list(range(66, 72))
    assert numbers(Video.load(counting, end=0.1)) == [0, 1, 2]
    assert numbers(Video.load(counting, start=1.0, max_frames=2)) == [24, 25]


def test_another_rate_takes_the_nearest_frames(counting):
    eight = Video.load(counting, fps=8.0)
    assert eight.fps == 8
    assert numbers(eight) == list(range(0, 72, 3))
    assert numbers(Video.load(counting, start=0.5, end=1.0, fps=16.0)) == [12, 14, 15, 17, 18, 20, 21, 23]
    assert numbers(Video.load(counting, end=0.125, fps=48.0)) == [0, 1, 1, 2, 2, 3]  # half-way is the later one


def test_a_variable_rate_keeps_its_pace(tmp_path):
    path = tmp_path / "x.mkv"
    times = [0, 40, 80, 500, 1000, 1040, 1080, 1900]  # milliseconds
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(flat([(30 * i,) * 3], 32, 32)[0], format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = Video.load(path, fps=10.0)
    shown = [round(float(frame.mean()) / 30) for frame in video.frames]
    nearest = [min(range(8), key=lambda i: abs(times[i] - 100 * k)) for k in range(len(shown))]
    assert 19 <= len(shown) <= 20
    assert shown == nearest
    assert len(Video.load(path).frames) > 1


def test_a_picture_that_stands_on_its_side_is_turned(tmp_path):
    path = tmp_path / "x.mp4"
    frames = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    frames[:, :, :16] = 255  # a white bar at the left
    Video(frames, fps=8.0).save(path)
    data = bytearray(path.read_bytes())
    # The matrix of the track header as phones write it: a quarter turn clockwise when shown.
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    upright = one + none + none + none + one + none
    turned = none + one + none + (-(1 << 16)).to_bytes(4, "big", signed=True) + none + none
    place = data.index(upright, data.index(b"tkhd"))
    data[place : place + len(upright)] = turned
    path.write_bytes(data)
    video = Video.load(path)
    assert video.frames.shape == (3, 64, 32, 3)
    assert video.frames[0, :8].mean() > 200  # the left has become the top
    assert video.frames[0, -8:].mean() < 50
    assert (io.probe(path).height, io.probe(path).width) == (64, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 2.0, "end": 1.0}, "the start must be before the end"),
        ({"start": -1.0}, "the start must be before the end"),
        ({"start": 9.0}, "has no frame between 9 s and inf s: it is 3 s long"),
        ({"fps": 0.0}, "fps=0 must be above 0"),
        ({"fps": float("nan")}, "fps=nan must be above 0"),
        ({"max_frames": 0}, "max_frames=0 must be 1 or more"),
    ],
)
def test_an_impossible_window_is_one_sentence(counting, options, words):
    with pytest.raises(UserError) as caught:
        Video.load(counting, **options)
    assert words in str(caught.value)


def test_what_is_no_video_is_one_sentence(tmp_path, counting):
    cases = {
        tmp_path / "none.mp4": "there is no such file",
        tmp_path: "it is a folder",
        tmp_path / "text.mp4": "it is damaged or no video",
        tmp_path / "empty.mp4": "it is damaged or no video",
        tmp_path / "cut.mp4": "it is damaged or no video",
    }
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(counting.read_bytes()[:2000])  # its index stood at the end
    for path, words in cases.items():
        for function in (io.read, io.probe):
            with pytest.raises(UserError) as caught:
                function(path)
            assert words in str(caught.value)
            assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "x.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match="there is no video in it"):
        Video.load(path)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_an_interrupted_save_leaves_nothing(tmp_path, suffix):
    def interrupt(signal, frame):
        raise KeyboardInterrupt

    video = Video(np.repeat(smooth(1, 480, 720), 60, axis=0), 8.0, {"seed": 1})
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with pytest.raises(KeyboardInterrupt):
            video.save(tmp_path / f"x{suffix}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x.avi", "x", "x.MP5"])
def test_an_unknown_ending_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match=r"the name of a video ends in \.mp4, \.gif, \.png"):
        Video(smooth(), fps=8.0).save(tmp_path / name)
    assert names(tmp_path) == []
