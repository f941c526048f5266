"""Color profiles (ICC) of images are converted to sRGB; the expected colors are computed by the formulas."""

import numpy as np
import pytest
from PIL import Image

from cogvideox.errors import UserError
from cogvideox.generation.request.inputs import read_inputs
from cogvideox.video import io
from cogvideox.video.reading import tone_mapping

PIXELS = np.stack(np.meshgrid(*[np.linspace(60, 190, 16)] * 2, [90]), -1).reshape(16, 16, 3).astype(np.uint8)


def matrix_profile(primaries, gamma):
    """Return an ICC profile of an RGB space with a D65 white point: its primaries as (x, y), and its gamma."""
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array([0.3127 / 0.329, 1, (1 - 0.3127 - 0.329) / 0.329])
    to_xyz = xyz * np.linalg.solve(xyz, white)
    d50 = np.array([[1.0478, 0.0229, -0.0501], [0.0296, 0.9904, -0.0171], [-0.0092, 0.0151, 0.7520]])  # Bradford

    def fixed(values):
        return b"".join(round(float(value) * 65536).to_bytes(4, "big", signed=True) for value in values)

    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), (d50 @ to_xyz).T)
    tags = [(name, b"XYZ \0\0\0\0" + fixed(column)) for name, column in columns]
    tags.append((b"wtpt", b"XYZ \0\0\0\0" + fixed((0.9642, 1, 0.8249))))
    curve = b"curv\0\0\0\0\0\0\0\1" + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    text = b"test\0"
    tags.append((b"desc", b"desc\0\0\0\0" + len(text).to_bytes(4, "big") + text + bytes(79)))
    table, data, offset = len(tags).to_bytes(4, "big"), b"", 132 + 12 * len(tags)
    for name, content in tags:
        content += bytes(-len(content) % 4)
        table += name + (offset + len(data)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        data += content
    header = b"\2\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed((0.9642, 1, 0.8249)) + bytes(48)
    size = 4 + 4 + len(header) + len(table) + len(data)
    return size.to_bytes(4, "big") + bytes(4) + header + table + data


P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def p3_to_srgb(pixels, gamma):
    """Convert by the formulas, from gamma to the curve of sRGB."""
    light = (pixels / 255.0) ** gamma @ np.array(tone_mapping._P3, np.float64).T
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_color_profiles_are_applied(tmp_path, suffix):
    """Photographs of telephones have the primaries of P3."""
    image = Image.fromarray(PIXELS)
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = tmp_path / f"x.{suffix}"
    image.save(path, icc_profile=matrix_profile(P3, 2.2), **options)
    shown = io.read_image(path)
    assert np.abs(shown - p3_to_srgb(PIXELS, 2.2)).mean() < 1
    assert np.abs(shown.astype(int) - PIXELS).mean() > 3
    with Image.open(path) as opened:
        assert np.array_equal(read_inputs(opened, None, fps=8.0).image, shown)


PROFILE = matrix_profile(P3, 2.2)


@pytest.mark.parametrize("profile", [b"", b"x" * 500, PROFILE[:200], PROFILE.replace(b"RGB ", b"CMYK")])
def test_damaged_color_profiles_are_ignored(tmp_path, profile):
    Image.fromarray(PIXELS).save(tmp_path / "x.png", icc_profile=profile)
    assert np.array_equal(io.read_image(tmp_path / "x.png"), PIXELS)


@pytest.mark.parametrize("profile", [None, PROFILE])
def test_a_damaged_tiff_is_rejected_with_and_without_a_color_profile(tmp_path, profile):
    path = tmp_path / "x.tif"
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, compression="tiff_lzw", icc_profile=profile)
    data = bytearray(path.read_bytes())
    data[400:2400] = bytes(value ^ 0xFF for value in data[400:2400])
    path.write_bytes(data)
    with pytest.raises(UserError):
        io.read_image(path)
