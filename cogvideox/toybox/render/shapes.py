"""The six shapes: signed distance to the silhouette, diffuse shading and highlight of each, in closed form.

A shape is a function of the position in the image (in radii of the toy, origin at its center, y down), the light, and
the rotation angle. Cubes and cylinders stand on the floor, and a cube spins about the vertical axis. Stars and rings
face the camera, and a star spins like a wheel.

Axes: `n` frames of all clips of a group, concatenated; `y x` pixels.
"""

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.toybox.render.lighting import LightSource

PITCH = math.radians(30.0)  # camera angle below the horizontal
YAW = math.radians(24.0)  # rotation of a cube at rest, about the vertical axis
SIN, COS = math.sin(PITCH), math.cos(PITCH)
BEVEL = 14.0  # sharpness of a cube's edges, per radius

ImagePlane = Float[Tensor, "n y x"]
XCoords = Float[Tensor, "n 1 x"]
YCoords = Float[Tensor, "n y 1"]
Rotation = Float[Tensor, "n 1 1"] | None
Surface = tuple[ImagePlane, ImagePlane, ImagePlane, tuple[float, float]]
"""Signed distance to the silhouette, diffuse shading, highlight, and (y of the shadow's center, its relative size)."""


def _shade(normal: Sequence[Tensor | float], light: LightSource) -> tuple[Tensor, Tensor]:
    """Compute diffuse shading and highlight for a unit normal (x, y, z), with z towards the camera."""
    towards_light, half = light.direction, light.half_vector
    diffuse = normal[0] * towards_light[0] + normal[1] * towards_light[1] + normal[2] * towards_light[2]
    facing = (normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2]).clamp_(0.0, 1.0)
    shade = 0.68 + 0.38 * diffuse.clamp_(-0.55, 1.0)
    return shade, 0.42 * facing.square().square().square().square()


def _ball(x: XCoords, y: YCoords, light: LightSource, rotation: Rotation) -> Surface:
    square = x * x + y * y
    z = (1.0 - square).clamp_(0.0, 1.0).sqrt_()
    shade, highlight = _shade((x, y, z), light)
    return square.sqrt() - 1.0, shade, highlight, (COS, 1.0)


def _cube(x: XCoords, y: YCoords, light: LightSource, rotation: Rotation) -> Surface:
    half = 0.70  # half an edge
    cos, sin = math.cos(YAW), math.sin(YAW)
    if rotation is not None:
        # A cube looks the same after a quarter turn. During it, the same two sides face the camera.
        yaw = (rotation + YAW).remainder(math.pi / 2).clamp_(0.03, math.pi / 2 - 0.03)
        cos, sin = yaw.cos(), yaw.sin()
    # The silhouette of a box is the hexagon spanned by its three projected edge directions.
    spans = ((half * cos, -half * sin * SIN), (half * sin, half * cos * SIN), (0.0, -half * COS))
    sides = []
    for ex, ey in spans:
        length = _length(ex, ey)
        nx, ny = -ey / length, ex / length
        half_width = sum(abs(fx * nx + fy * ny) for fx, fy in spans)
        sides.append((x * nx + y * ny).abs_().sub_(half_width))
    distance = functools.reduce(torch.maximum, sides)
    # A viewing ray crosses the planes of the three visible faces at depths that are linear in image coordinates. The
    # last face it crosses is visible. A soft blend of the faces rounds the cube's edges.
    weights, shades, highlights = [], [], []
    for normal in ((0.0, -COS, SIN), (sin, cos * SIN, cos * COS), (-cos, sin * SIN, sin * COS)):
        depth = (half - x * normal[0] - y * normal[1]) / normal[2]
        weights.append(depth.mul_(-BEVEL).clamp_(-40.0, 40.0).exp_())
        face_shade, face_highlight = _shade([torch.as_tensor(n) for n in normal], light)
        shades.append(weights[-1] * face_shade)
        highlights.append(weights[-1] * face_highlight)
    total, shade, highlight = (functools.reduce(torch.add, faces) for faces in (weights, shades, highlights))
    return distance, shade / total, highlight / total, (half * COS, 1.05)


def _cone(x: XCoords, y: YCoords, light: LightSource, rotation: Rotation) -> Surface:
    height = 1.9
    tall = height * COS  # from the center of the base to the tip, in the image
    base = (tall - SIN) / 2.0  # y of the center of the base, so that the silhouette is centered
    tip = base - tall
    touch = base - SIN * SIN / tall  # y where the outline leaves the ellipse of the base towards the tip
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
    return distance, *_shade(normal, light), (base, 1.0)


def _cylinder(x: XCoords, y: YCoords, light: LightSource, rotation: Rotation) -> Surface:
    radius, half = 0.74, 0.60  # radius of the caps; distance from the center to a cap's center, in the image
    flat = radius * SIN
    past = (y.abs() - half) / flat
    cap = ((x / radius).square() + past.square() - 1.0) / (
        2.0 * ((x / radius**2).square() + (past / flat).square()).sqrt_()
    ).clamp_(min=0.2)
    distance = torch.where(past > 0.0, cap, x.abs() - radius)
    across = (x / radius).clamp(-1.0, 1.0)
    front = (1.0 - across * across).sqrt_()
    side_shade, side_highlight = _shade((across, front * SIN, front * COS), light)
    top_shade, top_highlight = _shade([torch.tensor(n) for n in (0.0, -COS, SIN)], light)
    inside = 1.0 - (x / radius).square() - ((y + half) / flat).square()
    top = (inside * 3.0 + 0.5).clamp_(0.0, 1.0)
    shade = side_shade + (top_shade - side_shade) * top
    return distance, shade, side_highlight + (top_highlight - side_highlight) * top, (half, 0.86)


def _star(x: XCoords, y: YCoords, light: LightSource, rotation: Rotation) -> Surface:
    tip, notch, sector, tilt = 1.06, 0.52, 2.0 * math.pi / 5.0, 0.62
    along, up = notch * math.cos(sector / 2.0), notch * math.sin(sector / 2.0)
    # The star has ten facets, each with an edge from a tip to a notch. Folded onto one facet, it is a triangle.
    edge = math.hypot(tip - along, up)
    nx, ny = up / edge, (tip - along) / edge
    angle = torch.atan2(x, -y)
    if rotation is not None:
        angle = angle - rotation
    fold = (angle + sector / 2.0).remainder(sector) - sector / 2.0
    middle = angle - fold if rotation is None else angle - fold + rotation
    length = (x * x + y * y).sqrt_()
    across = length * fold.sin()
    distance = (length * fold.cos() - tip) * nx + across.abs() * ny
    # Each facet slopes down to its edge; the ridge between two facets is slightly rounded.
    facing = middle + math.atan2(ny, nx) * (across / 0.05).clamp_(-1.0, 1.0)
    normal = (facing.sin() * tilt, facing.cos() * -tilt, math.sqrt(1.0 - tilt * tilt))
    shade, highlight = _shade(normal, light)
    return distance, shade, highlight.mul_(0.3), (0.86, 0.85)  # a full highlight would cover whole facets


def _ring(x: XCoords, y: YCoords, light: LightSource, rotation: Rotation) -> Surface:
    radius, tube = 0.69, 0.29
    length = (x * x + y * y).sqrt_().clamp_(min=1e-3)
    out = ((length - radius) / tube).clamp_(-1.0, 1.0)
    normal = (x / length * out, y / length * out, (1.0 - out * out).sqrt_())
    return (length - radius).abs_() - tube, *_shade(normal, light), (0.90, 0.80)


def _length(x: float | Tensor, y: float | Tensor) -> float | Tensor:
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return torch.hypot(torch.as_tensor(x), torch.as_tensor(y))
    return math.hypot(x, y)


SHAPES = {"ball": _ball, "cube": _cube, "cone": _cone, "cylinder": _cylinder, "star": _star, "ring": _ring}
