"""Patterned floors: waves of brightness over the floor's colour, and the frequencies by which they are known again.

A floor is seen from above at a slant, so patterns are a little lower than wide. Where the wave is high the floor has
its own colour, where it is low a shade of it (on black: a lighter one).

Axes: `n` frames, `y x` pixels.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

SHADE = 0.74
SHADE_OF_BLACK = 3.2
FLATTENED = 0.75
"""Height of a cell over its width."""
PERIODS = {"checkered": 0.32, "striped": 0.40, "dotted": 0.26}
"""Width of two cells."""
WAVES = {
    "checkered": ((1.0, 1.0), (1.0, -1.0)),
    "striped": ((1.0, 1.0),),
    "dotted": ((1.0, 0.0), (0.0, 1.0)),
}
"""The strongest waves of each pattern, in periods; no two patterns have theirs in common."""


def shades(background: str) -> tuple[float, float]:
    """The brightness of a patterned floor's two parts, as multiples of its colour."""
    return (1.0, SHADE_OF_BLACK) if background == "black" else (1.0, SHADE)


def frequencies(pattern: str) -> Float[Tensor, "waves 2"]:
    """The strongest waves of a pattern, in cycles per frame side along x and y."""
    return torch.tensor(WAVES[pattern]) / PERIODS[pattern] / torch.tensor([1.0, FLATTENED])


def brightness(
    pattern: str,
    x: Float[Tensor, "_ 1 x"],
    y: Float[Tensor, "_ y 1"],
    phase: Sequence[tuple[float, float]],
    shade: Float[Tensor, "n 1 1"],
    edge: float | Float[Tensor, "n 1 1"],
) -> Float[Tensor, "n y x"]:
    """What the floor's colour is multiplied with at places on the floor; edges are `edge` wide."""
    period = PERIODS[pattern]
    start = torch.tensor(phase)
    u = 2.0 * math.pi * (x / period + start[:, 0].view(-1, 1, 1))
    v = 2.0 * math.pi * (y / (period * FLATTENED) + start[:, 1].view(-1, 1, 1))
    steep = period / (2.0 * math.pi * edge)
    if pattern == "checkered":
        wave = (u.sin() * steep).clamp_(-1.0, 1.0) * (v.sin() * (steep * FLATTENED)).clamp_(-1.0, 1.0)
    elif pattern == "striped":
        wave = ((u + v).sin() * (steep * 0.6)).clamp_(-1.0, 1.0)
    else:
        wave = ((1.0 - u.cos() - v.cos()) * (steep * 0.8)).clamp_(-1.0, 1.0)
    return (wave + 1.0) * 0.5 * (1.0 - shade) + shade
