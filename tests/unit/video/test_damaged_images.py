"""Images with damaged data, and others that Pillow decodes to wrong pixels without an error."""

from fractions import Fraction
from random import Random

import av
import numpy as np
import pytest
from PIL import Image

from cogvideox.errors import UserError
from cogvideox.video import io
from cogvideox.video.reading import images

H, W = 96, 128


def sample_image():
    y, x = np.mgrid[:H, :W]
    waves = np.stack([120 + 60 * np.sin(x / 9), 128 + 50 * np.cos(y / 7), 100 + x / 2], -1)
    return Image.fromarray((waves + np.random.default_rng(0).normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))


def damage(data, kind, rng):
    """Change an eighth of the file in the compressed data. The end of the file stays."""
    size = len(data) // 8
    start = rng.randrange(data.index(b"\xff\xda") + 14, len(data) * 3 // 4)
    new = {"zeros": bytes(size), "removed": b"", "random": rng.randbytes(size)}[kind]
    return data[:start] + new + data[start + size :]


KINDS = [
    ("RGB", {}),
    ("RGB", {"subsampling": 0}),
    ("RGB", {"progressive": True}),
    ("RGB", {"restart_marker_blocks": 8}),
]
KINDS += [("RGB", {"quality": 95, "optimize": True}), ("L", {}), ("CMYK", {}), ("L", {"progressive": True})]


@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_damaged_jpeg_data_is_rejected(tmp_path, mode, options):
    path, rng = tmp_path / "x.jpg", Random(0)
    sample_image().convert(mode).save(path, **options)
    data = path.read_bytes()
    assert io.read_image(path).shape == (H, W, 3)
    rejected = []
    for trial in range(8):
        for kind in ("zeros", "removed", "random"):
            path = tmp_path / f"{kind}{trial}.jpg"
            path.write_bytes(damage(data, kind, rng))
            try:
                io.read_image(path)
            except UserError as error:
                rejected.append(str(error))
    assert len(rejected) >= 20  # of 24: some damage gives other valid values
    assert all(message.startswith(f"cannot read {tmp_path}") for message in rejected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (33, 17), (300, 3)])
@pytest.mark.parametrize("progressive", [False, True])
def test_whole_jpegs_are_not_rejected(tmp_path, mode, size, progressive):
    for quality in (1, 75, 100):
        for subsampling in (0, 1, 2):
            path = tmp_path / f"{quality}-{subsampling}.jpg"
            options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
            sample_image().resize(size).convert(mode).save(path, "JPEG", **options)
            path.write_bytes(path.read_bytes() + b"trailing data")
            assert io.read_image(path).shape == (*size[::-1], 3)


def test_frame_types_of_jpegs(tmp_path):
    """FFmpeg does not support arithmetic coding (0xC9), so such files are not checked."""
    sample_image().save(tmp_path / "x.jpg", comment=b"a" * 300)
    data = (tmp_path / "x.jpg").read_bytes()
    at = data.index(b"\xff\xc0")
    assert images._frame_type(data) == 0xC0
    assert images._frame_type(data[:at] + b"\xff\xff\xc9" + data[at + 2 :]) == 0xC9
    assert images._frame_type(data[:at]) == images._frame_type(b"") == 0


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_color_jpeg_2000_with_16_bits(tmp_path, suffix):
    """Pillow makes white black."""
    values = np.linspace(0, 65535, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint16)
    encoder = av.CodecContext.create("jpeg2000", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "rgb48le", Fraction(1)
    encoder.options = {"format": suffix, "pred": "dwt53"}
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(values, format="rgb48le")), *encoder.encode(None)]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    expected = (values.astype(np.uint32) * 255 + 32767) // 65535
    assert np.abs(io.read_image(path).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", ["webp", "jp2"])
def test_images_that_pillow_cannot_open_are_called_damaged(tmp_path, suffix):
    sample_image().save(tmp_path / f"x.{suffix}")
    data = (tmp_path / f"x.{suffix}").read_bytes()
    for size in (40, 100, len(data) * 9 // 10):
        path = tmp_path / f"cut{size}.{suffix}"
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="damaged"):
            io.read_image(path)
