"""Images and animations are read as viewers show them. The expected images are computed here, or come from Pillow."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvideox.errors import UserError
from cogvideox.generation.request.inputs import read_inputs
from cogvideox.video import io
from tests.unit.video.frames import H, W, grays, near, sample_image


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "avif", "jp2"])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
def test_truncated_images_are_rejected(tmp_path, suffix, fraction):
    rng = np.random.default_rng(0)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(UserError, match=r"cannot read .*x\."):
        io.read_image(path)


def test_damaged_png_data_is_rejected(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(sample_image()).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged image"):
        io.read_image(path)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits", None])
def test_compressed_tiff(tmp_path, compression):
    Image.fromarray(sample_image()).save(tmp_path / "x.tif", compression=compression)
    assert near(io.read_image(tmp_path / "x.tif"), sample_image(), 4)


def test_16_bits_are_scaled_alike_on_every_path(tmp_path):
    ramp = np.linspace(0, 65535, H * W).astype(np.uint16).reshape(H, W)
    expected = np.repeat((ramp / 257).round().astype(np.uint8)[..., None], 3, -1)
    for name in ("x.png", "x.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        assert near(io.read_image(tmp_path / name), expected, 0.01)
        for source in (str(tmp_path / name), Image.open(tmp_path / name)):
            assert near(read_inputs(source, None, fps=8.0).image, expected, 0.01)
    assert near(read_inputs(Image.fromarray(ramp.astype(np.int32)), None, fps=8.0).image, expected, 0.01)


@pytest.mark.parametrize("values", [np.full((H, W), 0.5, np.float32), np.full((H, W), 70_000, np.int32)])
def test_more_than_16_bits_are_rejected(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    for source in (str(tmp_path / "x.tif"), Image.fromarray(values)):
        with pytest.raises(UserError, match="more than 16 bits per channel"):
            read_inputs(source, None, fps=8.0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "RGB"])
def test_image_modes_are_converted_like_pillow(tmp_path, mode):
    image = Image.fromarray(sample_image()).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    assert np.array_equal(io.read_image(path), np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("suffix", ["webp", "png", "avif"])
def test_animations_are_videos(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    images = [Image.new("RGB", (W, H), (10 * k,) * 3) for k in range(10)]
    lossless = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "avif" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, **lossless)
    info = io.probe(path)
    assert (info.num_frames, info.is_image) == (10, False)
    assert info.seconds == pytest.approx(1, abs=0.01)
    assert grays(io.read(path)[0]) == list(range(10))
    assert grays(io.read(path, start=0.5, fps=5.0)[0]) in ([5, 7, 9], [6, 8, 9])
    assert io.read_image(path).shape == (H, W, 3)


def test_heic(tmp_path, monkeypatch):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "x.heic").write_bytes(data)
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(UserError, match=r"install cogvideox\[heic\], or convert to JPEG"):
        io.read_image(tmp_path / "x.heic")


def test_heic_grids_are_read_whole():
    heif = pytest.importorskip("pi_heif")
    path = Path(__file__).with_name("grid.heic")
    expected = np.asarray(heif.open_heif(path, convert_hdr_to_8bit=True).to_pillow().convert("RGB"))
    assert expected.shape == (128, 128, 3)
    assert np.array_equal(io.read_image(path), expected)


def test_pillow_limit_does_not_apply(tmp_path, monkeypatch):
    Image.new("RGB", (200, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert io.read_image(tmp_path / "x.png").shape == (100, 200, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
