"""Videos and images are read as players show them: a test for each kind of file.

The expected images are computed here, or come from Pillow and pi-heif. `tests/media` compares with FFmpeg.
"""

import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from cogvideox.errors import UserError
from cogvideox.video import io
from cogvideox.video.reading import containers, images, tone_mapping
from tests.media import patches
from tests.unit.video.frames import H, W, encode, grays, near, sample_image

# Time: that of the video stream, never of the container.


def add_sound(path, out, seconds):
    """Copy a video, and add sound that begins with the container and lasts longer."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("aac", rate=8000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        for k in range(int(seconds * 8000) // 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * k, Fraction(1, 8000)
            target.mux(audio.encode(frame))
        target.mux(audio.encode())
    return out


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize("start", [0.0, 0.6])
def test_sound_does_not_change_the_length(tmp_path, suffix, start):
    silent = encode(tmp_path / "silent.mkv", [start + k / 25 for k in range(20)], crf="0")
    path = add_sound(silent, tmp_path / f"x{suffix}", 3)
    info = io.probe(path)
    assert (info.num_frames, info.fps) == (20, pytest.approx(25))
    assert info.seconds == pytest.approx(0.8, abs=0.002)
    assert grays(io.read(path)[0]) == list(range(20))
    assert grays(io.read(path, start=0.4, max_frames=3)[0]) == [10, 11, 12]


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_recordings_without_a_duration_in_the_header(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    with av.open(str(path), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx" if suffix == ".webm" else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for k in range(20):
            image = np.full((H, W, 3), 10 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    info = io.probe(path)
    assert (info.num_frames, info.fps, info.is_image) == (20, 25, False)
    assert info.seconds == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_the_last_frame_counts_at_a_variable_frame_rate(tmp_path, suffix):
    times = [k / 25 for k in range(10)] + [0.4 + 0.2 * k for k in range(8)]
    info = io.probe(encode(tmp_path / f"x{suffix}", times, crf="0"))
    assert info.num_frames == 18
    assert 1.84 - 0.002 <= info.seconds <= 2.0 + 0.002


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4", ".ts", ".flv"])
def test_frames_are_in_presentation_order(tmp_path, suffix):
    path = encode(tmp_path / f"x{suffix}", [k / 25 for k in range(24)], tick=Fraction(1, 25), bf="2", g="8", crf="0")
    assert grays(io.read(path)[0]) == list(range(24))
    for first in (3, 9, 17, 22):
        assert grays(io.read(path, start=first / 25, max_frames=2)[0]) == [first, first + 1]


def test_joined_recordings_continue(tmp_path):
    """Timestamps start again where two recordings were joined."""
    part = encode(tmp_path / "a.ts", [k / 25 for k in range(40)], tick=Fraction(1, 25), crf="0").read_bytes()
    (tmp_path / "x.ts").write_bytes(part + part)
    info = io.probe(tmp_path / "x.ts")
    assert info.num_frames == 80
    assert info.seconds == pytest.approx(3.2, abs=0.1)
    assert len(io.read(tmp_path / "x.ts")[0]) == pytest.approx(80, abs=2)


# Geometry


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, suffix, orientation):
    image = Image.fromarray(sample_image())
    image.getexif()[274] = orientation
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{suffix}"
    image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    expected = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert np.array_equal(io.read_image(path), expected)
    assert expected.shape[:2] == ((W, H) if orientation > 4 else (H, W))
    info = io.probe(path)
    assert (info.height, info.width, info.is_image) == (*expected.shape[:2], True)


MATRICES = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_display_matrices_rotate_and_mirror(tmp_path, matrix):
    path = tmp_path / "x.mp4"
    io.write(path, np.stack([sample_image()] * 3), 8.0)
    path.write_bytes(patches.matrix(matrix)(path.read_bytes()))
    expected = MATRICES[matrix](sample_image())
    frames, _ = io.read(path)
    assert near(frames[1], expected, 6)
    assert (io.probe(path).height, io.probe(path).width) == expected.shape[:2]


@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(8, 9), Fraction(2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_pixels_are_square(tmp_path, suffix, aspect):
    def setup(container, stream):
        stream.codec_context.sample_aspect_ratio = aspect

    path = encode(tmp_path / f"x{suffix}", [k / 25 for k in range(5)], "mpeg4", Fraction(1, 25), setup)
    info = io.probe(path)
    assert (info.height, info.width) == (H, round(W * aspect))
    assert io.read(path)[0].shape == (5, H, round(W * aspect), 3)


def test_interlaced_frames_are_deinterlaced(tmp_path):
    """A moving edge has combs in the file and none after reading. The number of frames stays."""
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.field_order = 2  # top field first
        for k in range(8):
            image = np.zeros((32, 64, 3), np.uint8)
            image[0::2, : 8 + 6 * k] = image[1::2, : 11 + 6 * k] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        if not next(container.decode(video=0)).interlaced_frame:
            pytest.skip("this FFmpeg does not mark the frames as interlaced")
    frames, _ = io.read(path)
    assert len(frames) == 8
    combs = np.abs(np.diff(frames[3].astype(int), axis=0)).mean()
    assert combs < 5


# Color


def write_tagged(path, matrix=2, transfer=2, primaries=2, height=H, width=W, codec="libx264"):
    def setup(container, stream):
        stream.width, stream.height = width, height
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = matrix, transfer, primaries

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"crf": "1"})
        stream.pix_fmt = "yuv420p"
        setup(container, stream)
        for _ in range(2):
            yuv = np.full((height * 3 // 2, width), 128, np.uint8)
            yuv[:height] = 120
            yuv[height:] = 180
            container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv420p")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("matrix", [8, 10, 11, 12, 13, 14])
def test_unsupported_matrices_are_named(tmp_path, matrix):
    path = write_tagged(tmp_path / "x.mp4", matrix)
    for read in (io.probe, io.read, io.read_image):
        with pytest.raises(UserError, match=r"its color matrix \(.+\) is not supported; convert it to BT.709"):
            read(path)


@pytest.mark.parametrize(("transfer", "name"), [(8, "linear"), (9, "logarithmic"), (17, "SMPTE 428")])
def test_unsupported_transfers_are_named(tmp_path, transfer, name):
    with pytest.raises(UserError, match=rf"its transfer characteristic \({name}\) is not supported"):
        io.read(write_tagged(tmp_path / "x.mp4", transfer=transfer))


@pytest.mark.parametrize(
    ("height", "width", "kr"), [(576, 64, 0.299), (578, 64, 0.2126), (64, 1278, 0.299), (64, 1280, 0.2126)]
)
def test_untagged_videos_use_the_matrix_that_players_assume(tmp_path, height, width, kr):
    pixel = io.read(write_tagged(tmp_path / "x.mp4", height=height, width=width))[0][0, 9, 9]
    red = (120 - 16) * 255 / 219 + 2 * (1 - kr) * (180 - 128) * 255 / 224
    assert abs(pixel[0] - red) <= 2


@pytest.mark.parametrize("transfer", tone_mapping.HDR_TRANSFERS)
def test_hdr_is_mapped_to_sdr(transfer):
    """Gray up to 80 % of white keeps its brightness, brighter gray is compressed, and the peak is white."""
    codes = np.arange(0, 65536, 64, dtype=np.uint16)
    sdr = tone_mapping.to_sdr(np.repeat(codes[None, :, None], 3, -1), transfer, 1)[0, :, 0].astype(int)
    assert (np.diff(sdr) >= 0).all()
    code = codes / 65535
    if transfer == 16:
        power = code ** (32 / 2523)
        nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (8192 / 1305)
    else:
        nits = (
            1000
            * np.where(code < 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12) ** 1.2
        )
    dark = nits < 0.8 * 203
    assert np.abs(sdr[dark] - 255 * (nits[dark] / 203) ** (1 / 2.4)).max() <= 1
    assert sdr[np.argmin(np.abs(nits - 175))] in range(232, 245)  # the white of paper
    assert sdr[nits >= 999].min(initial=255) >= 254


def test_hdr_videos_are_mapped(tmp_path):
    flat = io.read(write_tagged(tmp_path / "sdr.mp4", 9, 1, 1))[0][0, 9, 9].astype(int)
    mapped = io.read(write_tagged(tmp_path / "pq.mp4", 9, 16, 9))[0][0, 9, 9].astype(int)
    assert np.abs(mapped - flat).max() > 20


# Names and kinds of files


@pytest.mark.parametrize("name", ["x%d", "x%03d", "100%", "a,b", "file:x", "concat:x|y", "-x", "x#1?", "'x'"])
@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_names_are_taken_literally(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    io.write(f"{tmp_path}/plain{suffix}", np.stack([sample_image()] * 2)[: 1 if suffix == ".png" else 2], 8.0)
    shutil.copy(f"plain{suffix}", name + suffix)
    Image.new("RGB", (8, 8)).save("x1.png")
    Image.new("RGB", (8, 8)).save("x001.png")
    assert io.probe(name + suffix).width == W
    assert near(io.read_image(name + suffix), sample_image(), 6)


@pytest.mark.parametrize("name", ["x.mp4", "x.png"])
def test_pipes_and_devices_are_rejected_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / f"link-{name}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"link-{name}"):
        for read in (io.probe, io.read, io.read_image, io.check_gaps):
            with pytest.raises(UserError, match="it is not a regular file but a pipe, a device or a socket"):
                read(path)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:1,\nwhole.ts\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile whole.ts\n"]
)
def test_playlists_are_rejected(tmp_path, text):
    encode(tmp_path / "whole.ts", [0.0, 0.04], crf="0")
    for name in ("x.mp4", "x.m3u8"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="damaged or not a video"):
            io.read(tmp_path / name)


def test_timelines_are_read_once(tmp_path, monkeypatch):
    path = encode(tmp_path / "x.mkv", [k / 25 for k in range(9)], crf="0")
    io.probe(path)
    opened = []
    monkeypatch.setattr(containers, "open_video", lambda path: opened.append(path))
    for _ in range(3):
        io.check_gaps(path)
    assert opened == []


def test_a_picture_with_the_name_of_a_video(tmp_path):
    Image.fromarray(sample_image()).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.mp4")
    assert images.is_image(tmp_path / "x.mp4")
    assert io.probe(tmp_path / "x.mp4").is_image


def test_dolby_vision_without_a_compatible_layer_is_named(tmp_path):
    path = encode(tmp_path / "x.mp4", [0, 0.04, 0.08])
    assert io.probe(path).num_frames == 3
    path.write_bytes(path.read_bytes().replace(b"avc1", b"dva1"))
    with pytest.raises(UserError, match=r"Dolby Vision profile 5\) are not supported; convert it"):
        io.read(path)
