"""Where a toy is and what it looks like at any time, and the box that it never leaves.

`u` is the share of the scene's time that is over, 0 to 1. Straight motions glide evenly. A bounce is two hops along
parabolas, an orbit one round on the floor, which the camera sees flattened; growth is even, and so is a spin.

Axes: `b` toys, `t` frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.toybox.scenes.grammar import MOTIONS, REACH, Toy

HOPS = 2
FLAT = 0.62
"""Height of an orbit over its width."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Poses:
    """Centre of the silhouette, height above the floor, radius, and angle of the spin in radians."""

    x: Float[Tensor, "b t"]
    y: Float[Tensor, "b t"]
    lift: Float[Tensor, "b t"]
    radius: Float[Tensor, "b t"]
    turn: Float[Tensor, "b t"]


def poses(toys: Sequence[Toy], times: Float[Tensor, "b t"], seconds: Float[Tensor, "b 1"]) -> Poses:
    """The poses of one toy per row at `times`, none of which is later than `seconds`."""

    def column(values: Sequence[float]) -> Float[Tensor, "b 1"]:
        return torch.tensor(values).view(-1, 1)

    way = column([toy.speed for toy in toys]) * times
    step = torch.tensor([MOTIONS.get(toy.motion, (0.0, 0.0)) for toy in toys])
    x = column([toy.x for toy in toys]) + way * step[:, :1]
    y = column([toy.y for toy in toys]) + way * step[:, 1:]
    radius = column([toy.radius for toy in toys]).expand_as(times)
    lift, turn = torch.zeros_like(times), torch.zeros_like(times)
    if all(toy.motion in MOTIONS for toy in toys):
        return Poses(x, y, lift, radius, turn)

    def extent(*motions: str) -> Float[Tensor, "b 1"]:
        return column([toy.extent if toy.motion in motions else 0.0 for toy in toys])

    u = times / seconds.clamp(min=1e-6)
    hop = (u * HOPS).frac()
    lift = extent("bounce") * 4.0 * hop * (1.0 - hop)
    round_ = extent("orbit")
    start = column([toy.angle for toy in toys])
    now = start + 2.0 * math.pi * u * round_.sign()
    x = x + round_.abs() * (now.cos() - start.cos())
    y = y + round_.abs() * FLAT * (now.sin() - start.sin()) - lift
    grown = column([toy.extent if toy.motion in ("grow", "shrink") else 1.0 for toy in toys])
    return Poses(x, y, lift, radius * (1.0 + (grown - 1.0) * u), 2.0 * math.pi * extent("spin") * u)


def sweep(toy: Toy, seconds: float) -> Box:
    """The box around all that a toy covers in a clip."""
    left = right = toy.x
    top = bottom = toy.y
    radius = toy.radius
    if toy.motion in MOTIONS:
        dx, dy = MOTIONS[toy.motion]
        end_x, end_y = toy.x + dx * toy.speed * seconds, toy.y + dy * toy.speed * seconds
        left, right, top, bottom = min(left, end_x), max(right, end_x), min(top, end_y), max(bottom, end_y)
    elif toy.motion == "bounce":
        top -= toy.extent
    elif toy.motion == "orbit":
        reach = abs(toy.extent)
        x, y = toy.x - reach * math.cos(toy.angle), toy.y - reach * FLAT * math.sin(toy.angle)
        left, right, top, bottom = x - reach, x + reach, y - reach * FLAT, y + reach * FLAT
    elif toy.motion == "grow":
        radius *= toy.extent
    half = REACH * radius
    return left - half, top - half, right + half, bottom + half
