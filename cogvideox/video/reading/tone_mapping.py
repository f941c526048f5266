"""Tone mapping of HDR (PQ and HLG) to SDR, with the reference white of ITU-R BT.2408: 203 nits are SDR white.

Luminance up to 80 % of white is unchanged; higher luminance, up to 1000 nits, is compressed into the remaining range.

Axes: `h w` height and width in pixels.
"""

from functools import cache

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

HDR_TRANSFERS = (16, 18)
"""Codes of the HDR transfer characteristics PQ and HLG (ITU-T H.273)."""

WHITE = 203.0  # nits (BT.2408)
PEAK = 1000.0  # nits; by definition for HLG, and in most PQ masters
KNEE = 0.8  # fraction of white above which luminance is compressed
_ROWS = 64  # number of rows converted at once, to limit memory

# Color matrices to BT.709 in linear light, from BT.2020 (BT.2087) and from P3 with the D65 white point (H.273).
_BT2020 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
_P3 = np.array([[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]], np.float32)


_MATRICES = {9: _BT2020, 11: _P3, 12: _P3}
"""By color primaries (H.273)."""

WIDE_GAMUT_PRIMARIES = tuple(_MATRICES)
"""Color primaries of SDR videos that are converted to BT.709."""


def to_bt709(rgb: UInt16[np.ndarray, "h w 3"], primaries: int) -> UInt8[np.ndarray, "h w 3"]:
    """Convert 16-bit SDR pixels from `WIDE_GAMUT_PRIMARIES` to BT.709; out-of-gamut values are clipped."""
    light, codes = _bt1886()
    converted = np.empty(rgb.shape, np.uint8)
    for row in range(0, len(rgb), _ROWS):
        linear = light[rgb[row : row + _ROWS]] @ _MATRICES[primaries].T
        converted[row : row + _ROWS] = codes[(np.sqrt(linear.clip(0, 1)) * 65535).astype(np.uint16)]
    return converted


@cache
def _bt1886() -> tuple[Float32[np.ndarray, " codes"], UInt8[np.ndarray, " codes"]]:
    """Return the linear light of each 16-bit code, and the 8-bit code of each square root of light (BT.1886)."""
    values = np.linspace(0, 1, 65536)
    return (values**2.4).astype(np.float32), ((values**2) ** (1 / 2.4) * 255).round().astype(np.uint8)


def to_sdr(rgb: UInt16[np.ndarray, "h w 3"], transfer: int, primaries: int) -> UInt8[np.ndarray, "h w 3"]:
    """Convert 16-bit HDR pixels to SDR.

    Args:
        transfer: one of `HDR_TRANSFERS`.
        primaries: color primaries (H.273): 1 is BT.709, 11 and 12 are P3; all others are treated as BT.2020.
    """
    matrix = np.eye(3, dtype=np.float32) if primaries == 1 else _MATRICES.get(primaries, _BT2020)
    sdr = np.empty(rgb.shape, np.uint8)
    for row in range(0, len(rgb), _ROWS):
        light = _light(transfer)[rgb[row : row + _ROWS]] @ matrix.T
        sdr[row : row + _ROWS] = _encoded()[(np.sqrt(light.clip(0, 1)) * 65535).astype(np.uint16)]
    return sdr


@cache
def _light(transfer: int) -> Float32[np.ndarray, " codes"]:
    """Return the linear light of each 16-bit code, relative to the peak (BT.2100).

    For HLG, the gamma of 1.2 is applied to each channel, as FFmpeg's zscale filter does by default. BT.2100 applies it
    to the luminance, which makes saturated colors slightly paler.
    """
    code = np.linspace(0, 1, 65536)
    if transfer == 18:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
        return (scene**1.2).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    nits = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return (nits / PEAK).astype(np.float32)


@cache
def _encoded() -> UInt8[np.ndarray, " codes"]:
    """Return the SDR value for each square root of light relative to the peak: compression above the knee, BT.1886."""
    light = np.linspace(0, 1, 65536) ** 2 * PEAK / WHITE
    # Extended Reinhard curve above the knee, with slope 1 at the knee and white at the peak.
    excess, max_excess = np.maximum(light - KNEE, 0) / (1 - KNEE), (PEAK / WHITE - KNEE) / (1 - KNEE)
    compressed = KNEE + (1 - KNEE) * excess * (1 + excess / max_excess**2) / (1 + excess)
    return (np.where(light < KNEE, light, compressed).clip(0, 1) ** (1 / 2.4) * 255).round().astype(np.uint8)
