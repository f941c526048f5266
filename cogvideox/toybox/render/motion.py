"""Position, size and rotation of toys over time, and the bounding box of a toy's whole path.

`u` is the elapsed fraction of the scene's time. Straight motions have constant speed. A bounce is two parabolic hops.
An orbit is a full circle on the floor, which the camera sees as an ellipse. Growth and spin are linear in time.

Axes: `b` toys, `t` frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.toybox.scenes.grammar import BOX_HALF_SIDE, MOTIONS, Toy

NUM_HOPS = 2
ORBIT_ASPECT = 0.62
"""Ratio of the height to the width of an orbit in the image."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Poses:
    """Poses of toys over time.

    Attributes:
        x, y: center of the silhouette in the image.
        height: height above the floor.
        radius: radius of the toy.
        rotation: angle of a spin, in radians.
    """

    x: Float[Tensor, "b t"]
    y: Float[Tensor, "b t"]
    height: Float[Tensor, "b t"]
    radius: Float[Tensor, "b t"]
    rotation: Float[Tensor, "b t"]


def toy_poses(toys: Sequence[Toy], times: Float[Tensor, "b t"], seconds: Float[Tensor, "b 1"]) -> Poses:
    """Compute the poses of each toy at `times`, in seconds from 0 to `seconds`."""

    def column(values: Sequence[float]) -> Float[Tensor, "b 1"]:
        return torch.tensor(values).view(-1, 1)

    distance = column([toy.speed for toy in toys]) * times
    direction = torch.tensor([MOTIONS.get(toy.motion, (0.0, 0.0)) for toy in toys])
    x = column([toy.x for toy in toys]) + distance * direction[:, :1]
    y = column([toy.y for toy in toys]) + distance * direction[:, 1:]
    radius = column([toy.radius for toy in toys]).expand_as(times)
    height, rotation = torch.zeros_like(times), torch.zeros_like(times)
    if all(toy.motion in MOTIONS for toy in toys):
        return Poses(x, y, height, radius, rotation)

    def extent(*motions: str) -> Float[Tensor, "b 1"]:
        return column([toy.extent if toy.motion in motions else 0.0 for toy in toys])

    u = times / seconds.clamp(min=1e-6)
    hop = (u * NUM_HOPS).frac()
    height = extent("bounce") * 4.0 * hop * (1.0 - hop)
    orbit = extent("orbit")
    start_angle = column([toy.angle for toy in toys])
    angle = start_angle + 2.0 * math.pi * u * orbit.sign()
    x = x + orbit.abs() * (angle.cos() - start_angle.cos())
    y = y + orbit.abs() * ORBIT_ASPECT * (angle.sin() - start_angle.sin()) - height
    growth = column([toy.extent if toy.motion in ("grow", "shrink") else 1.0 for toy in toys])
    return Poses(x, y, height, radius * (1.0 + (growth - 1.0) * u), 2.0 * math.pi * extent("spin") * u)


def swept_box(toy: Toy, seconds: float) -> Box:
    """Return the bounding box of a toy over a whole clip."""
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
        rx, ry = abs(toy.extent), abs(toy.extent) * ORBIT_ASPECT
        x, y = toy.x - rx * math.cos(toy.angle), toy.y - ry * math.sin(toy.angle)
        left, right, top, bottom = x - rx, x + rx, y - ry, y + ry
    elif toy.motion == "grow":
        radius *= toy.extent
    half = BOX_HALF_SIDE * radius
    return left - half, top - half, right + half, bottom + half
