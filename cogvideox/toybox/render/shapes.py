"""The six shapes: silhouette, shade and highlight of each, in closed form.

A shape is a function of the place in the picture, in radii of the toy, with its centre at the origin and y down, of
the lamp, and of the angle by which the toy is turned. Cubes and cylinders stand on the floor and turn about the
vertical; stars and rings face the camera, and a star turns like a wheel.

Axes: `n` frames of all clips of a group in a row, `y x` pixels.
"""

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.toybox.render.lighting import Lamp

PITCH = math.radians(30.0)  # how far the camera looks down
YAW = math.radians(24.0)  # how far a cube is turned
SIN, COS = math.sin(PITCH), math.cos(PITCH)
BEVEL = 14.0  # sharpness of a cube's edges, per radius

Plane = Float[Tensor, "n y x"]
Column = Float[Tensor, "n 1 x"]
Row = Float[Tensor, "n y 1"]
Turn = Float[Tensor, "n 1 1"] | None
Look = tuple[Plane, Plane, Plane, tuple[float, float]]
"""Signed distance to the silhouette, shade, highlight; and of the shadow: height of its middle, and its size."""


def _lit(normal: Sequence[Tensor | float], lamp: Lamp) -> tuple[Tensor, Tensor]:
    """Diffuse shade and highlight for a unit normal (x, y, z); z is towards the camera."""
    light, half = lamp.direction, lamp.half
    diffuse = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
    facing = (normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2]).clamp_(0.0, 1.0)
    shade = 0.68 + 0.38 * diffuse.clamp_(-0.55, 1.0)
    return shade, 0.42 * facing.square().square().square().square()


def _ball(x: Column, y: Row, lamp: Lamp, turn: Turn) -> Look:
    square = x * x + y * y
    z = (1.0 - square).clamp_(0.0, 1.0).sqrt_()
    shade, gloss = _lit((x, y, z), lamp)
    return square.sqrt() - 1.0, shade, gloss, (COS, 1.0)


def _cube(x: Column, y: Row, lamp: Lamp, turn: Turn) -> Look:
    half = 0.70  # half an edge
    cos, sin = math.cos(YAW), math.sin(YAW)
    if turn is not None:
        # After a quarter turn a cube looks the same; before, the same two sides look at the camera.
        yaw = (turn + YAW).remainder(math.pi / 2).clamp_(0.03, math.pi / 2 - 0.03)
        cos, sin = yaw.cos(), yaw.sin()
    # The silhouette of a box is the hexagon that its three edge directions span in the picture.
    spans = ((half * cos, -half * sin * SIN), (half * sin, half * cos * SIN), (0.0, -half * COS))
    sides = []
    for ex, ey in spans:
        length = _length(ex, ey)
        nx, ny = -ey / length, ex / length
        reach = sum(abs(fx * nx + fy * ny) for fx, fy in spans)
        sides.append((x * nx + y * ny).abs_().sub_(reach))
    distance = functools.reduce(torch.maximum, sides)
    # A line of sight passes the planes of the three faces that look at the camera at depths that are linear in the
    # picture; the face that shows is the last one passed. Blending them softly gives the cube rounded edges.
    weights, shades, glosses = [], [], []
    for normal in ((0.0, -COS, SIN), (sin, cos * SIN, cos * COS), (-cos, sin * SIN, sin * COS)):
        depth = (half - x * normal[0] - y * normal[1]) / normal[2]
        weights.append(depth.mul_(-BEVEL).clamp_(-40.0, 40.0).exp_())
        face_shade, face_gloss = _lit([torch.as_tensor(n) for n in normal], lamp)
        shades.append(weights[-1] * face_shade)
        glosses.append(weights[-1] * face_gloss)
    total, shade, gloss = (functools.reduce(torch.add, faces) for faces in (weights, shades, glosses))
    return distance, shade / total, gloss / total, (half * COS, 1.05)


def _cone(x: Column, y: Row, lamp: Lamp, turn: Turn) -> Look:
    height = 1.9
    tall = height * COS  # from the middle of the base to the tip, in the picture
    base = (tall - SIN) / 2.0  # where the middle of the base is, so that the silhouette is centred
    tip = base - tall
    touch = base - SIN * SIN / tall  # where the outline leaves the ellipse of the base for the tip
    slope = math.sqrt(1.0 - (SIN / tall) ** 2) / (touch - tip)
    down = y - tip
    length = math.hypot(1.0, slope)
    side = ((x * x + 0.07**2).sqrt_() - slope * down) / length
    low = (y - base) / SIN
    ring = x * x + low * low
    bottom = (ring - 1.0) / (2.0 * (x * x + (low / SIN).square()).sqrt_()).clamp_(min=0.2)
    distance = torch.where(y > touch, torch.maximum(side, bottom), side)
    across = (x / (slope * down).clamp_(min=0.05)).clamp_(-1.0, 1.0)
    front = (1.0 - across * across).sqrt_()
    flat, up = height / math.hypot(1.0, height), 1.0 / math.hypot(1.0, height)
    normal = (across * flat, front * (flat * SIN) - up * COS, front * (flat * COS) + up * SIN)
    return distance, *_lit(normal, lamp), (base, 1.0)


def _cylinder(x: Column, y: Row, lamp: Lamp, turn: Turn) -> Look:
    radius, half = 0.74, 0.60  # of the lids; from the middle to the centre of a lid, in the picture
    flat = radius * SIN
    past = (y.abs() - half) / flat
    lid = ((x / radius).square() + past.square() - 1.0) / (
        2.0 * ((x / radius**2).square() + (past / flat).square()).sqrt_()
    ).clamp_(min=0.2)
    distance = torch.where(past > 0.0, lid, x.abs() - radius)
    across = (x / radius).clamp(-1.0, 1.0)
    front = (1.0 - across * across).sqrt_()
    side_shade, side_gloss = _lit((across, front * SIN, front * COS), lamp)
    top_shade, top_gloss = _lit([torch.tensor(n) for n in (0.0, -COS, SIN)], lamp)
    inside = 1.0 - (x / radius).square() - ((y + half) / flat).square()
    top = (inside * 3.0 + 0.5).clamp_(0.0, 1.0)
    shade = side_shade + (top_shade - side_shade) * top
    return distance, shade, side_gloss + (top_gloss - side_gloss) * top, (half, 0.86)


def _star(x: Column, y: Row, lamp: Lamp, turn: Turn) -> Look:
    tip, notch, sector, tilt = 1.06, 0.52, 2.0 * math.pi / 5.0, 0.62
    along, up = notch * math.cos(sector / 2.0), notch * math.sin(sector / 2.0)
    # Ten facets, each with one edge: the line from a tip to a notch. Folded onto one of them, a star is a triangle.
    edge = math.hypot(tip - along, up)
    nx, ny = up / edge, (tip - along) / edge
    angle = torch.atan2(x, -y)
    if turn is not None:
        angle = angle - turn
    fold = (angle + sector / 2.0).remainder(sector) - sector / 2.0
    middle = angle - fold if turn is None else angle - fold + turn
    length = (x * x + y * y).sqrt_()
    across = length * fold.sin()
    distance = (length * fold.cos() - tip) * nx + across.abs() * ny
    # Each facet slopes down to its edge; where two meet in a ridge, the change is a little rounded.
    facing = middle + math.atan2(ny, nx) * (across / 0.05).clamp_(-1.0, 1.0)
    normal = (facing.sin() * tilt, facing.cos() * -tilt, math.sqrt(1.0 - tilt * tilt))
    shade, gloss = _lit(normal, lamp)
    return distance, shade, gloss.mul_(0.3), (0.86, 0.85)  # a whole facet would shine, and hide the colour


def _ring(x: Column, y: Row, lamp: Lamp, turn: Turn) -> Look:
    radius, tube = 0.69, 0.29
    length = (x * x + y * y).sqrt_().clamp_(min=1e-3)
    out = ((length - radius) / tube).clamp_(-1.0, 1.0)
    normal = (x / length * out, y / length * out, (1.0 - out * out).sqrt_())
    return (length - radius).abs_() - tube, *_lit(normal, lamp), (0.90, 0.80)


def _length(x: float | Tensor, y: float | Tensor) -> float | Tensor:
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return torch.hypot(torch.as_tensor(x), torch.as_tensor(y))
    return math.hypot(x, y)


SHAPES = {"ball": _ball, "cube": _cube, "cone": _cone, "cylinder": _cylinder, "star": _star, "ring": _ring}
