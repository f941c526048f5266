"""Floor patterns as brightness waves, and the frequencies by which the judge detects them.

The crests of a wave have the floor's color, the troughs a darker shade of it (a lighter shade on a black floor). The
camera looks down at an angle, so the cells of a pattern appear wider than high.

Axes: `n` frames, `y x` pixels.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

SHADE = 0.74
SHADE_OF_BLACK = 3.2
CELL_ASPECT = 0.75
"""Ratio of the height to the width of a pattern cell in the image."""
PERIODS = {"checkered": 0.32, "striped": 0.40, "dotted": 0.26}
"""Width of two cells, as a fraction of the frame's shorter side."""
WAVES = {
    "checkered": ((1.0, 1.0), (1.0, -1.0)),
    "striped": ((1.0, 1.0),),
    "dotted": ((1.0, 0.0), (0.0, 1.0)),
}
"""Wave vectors of the strongest components of each pattern, in cycles per period. No two patterns share one."""


def shades(background: str) -> tuple[float, float]:
    """Return the two brightness levels of a patterned floor, as multiples of its color."""
    return (1.0, SHADE_OF_BLACK) if background == "black" else (1.0, SHADE)


def frequencies(pattern: str) -> Float[Tensor, "waves 2"]:
    """Return the strongest waves of a pattern, in cycles per frame side along x and y."""
    return torch.tensor(WAVES[pattern]) / PERIODS[pattern] / torch.tensor([1.0, CELL_ASPECT])


def brightness(
    pattern: str,
    x: Float[Tensor, "_ 1 x"],
    y: Float[Tensor, "_ y 1"],
    phase: Sequence[tuple[float, float]],
    shade: Float[Tensor, "n 1 1"],
    edge: float | Float[Tensor, "n 1 1"],
) -> Float[Tensor, "n y x"]:
    """Compute the brightness at positions on the floor, as multiples of the floor's color.

    Args:
        phase: offset of the pattern in each frame, in periods along x and y.
        shade: brightness of the troughs in each frame.
        edge: width of the transition between crests and troughs.
    """
    period = PERIODS[pattern]
    offset = torch.tensor(phase)
    u = 2.0 * math.pi * (x / period + offset[:, 0].view(-1, 1, 1))
    v = 2.0 * math.pi * (y / (period * CELL_ASPECT) + offset[:, 1].view(-1, 1, 1))
    slope = period / (2.0 * math.pi * edge)
    if pattern == "checkered":
        wave = (u.sin() * slope).clamp_(-1.0, 1.0) * (v.sin() * (slope * CELL_ASPECT)).clamp_(-1.0, 1.0)
    elif pattern == "striped":
        wave = ((u + v).sin() * (slope * 0.6)).clamp_(-1.0, 1.0)
    else:
        wave = ((1.0 - u.cos() - v.cos()) * (slope * 0.8)).clamp_(-1.0, 1.0)
    return (wave + 1.0) * 0.5 * (1.0 - shade) + shade
