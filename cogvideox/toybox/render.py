"""Draws scenes: an oblique parallel camera looks down at a plain floor with a toy and its soft shadow.

Everything is analytic: a silhouette is a signed distance (anti-aliased over about one pixel), a surface is shaded from
its normal, and a shadow is a blurred ellipse on the floor. Nothing is sampled, so the picture is the same at every
size but for the width of an edge. Clips are drawn in batches, one shape at a time.

Axes: `n` frames of all clips of a group in a row, `y x` pixels, `b t h w` clips, frames, height and width.
"""

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.toybox.scene import BACKGROUND_COLORS, MOTIONS, TOY_COLORS, Scene

PITCH = math.radians(30.0)  # how far the camera looks down
YAW = math.radians(24.0)  # how far a cube is turned
LIGHT = torch.nn.functional.normalize(torch.tensor([-0.50, -0.62, 0.72]), dim=0)  # to the lamp; z is towards the camera
HALF = torch.nn.functional.normalize(LIGHT + torch.tensor([0.0, 0.0, 1.0]), dim=0)  # normal of the brightest highlight
SIN, COS = math.sin(PITCH), math.cos(PITCH)
BEVEL = 14.0  # sharpness of a cube's edges, per radius
PIXELS_AT_ONCE = 1 << 18  # keeps the planes of one step in the processor's cache

Plane = Float[Tensor, "n y x"]
Column = Float[Tensor, "n 1 x"]
Row = Float[Tensor, "n y 1"]
Look = tuple[Plane, Plane, Plane, tuple[float, float]]
"""Signed distance to the silhouette, shade, highlight; and of the shadow: height of its middle, and its size."""


def render_batch(
    scenes: Sequence[Scene], *, num_frames: int = 9, height: int = 64, width: int = 64, fps: int | float = 8.0
) -> UInt8[Tensor, "b t h w 3"]:
    """Renders one clip per scene, frame i at i / fps seconds."""
    out = torch.empty(len(scenes), num_frames, height, width, 3, dtype=torch.uint8)
    clips = max(1, PIXELS_AT_ONCE // (num_frames * height * width))
    by_shape: dict[tuple[str, ...], list[int]] = {}
    for index, scene in enumerate(scenes):
        by_shape.setdefault(tuple(toy.shape for toy in scene.toys), []).append(index)
    for shapes, members in by_shape.items():
        for first in range(0, len(members), clips):
            chosen = members[first : first + clips]
            out[chosen] = _render_group([scenes[i] for i in chosen], shapes, num_frames, height, width, fps)
    return out


def render(
    scene: Scene, *, num_frames: int = 9, height: int = 64, width: int = 64, fps: int | float = 8.0
) -> UInt8[Tensor, "t h w 3"]:
    """Renders one scene: see `render_batch`."""
    return render_batch([scene], num_frames=num_frames, height=height, width=width, fps=fps)[0]


def _render_group(
    scenes: list[Scene], shapes: tuple[str, ...], num_frames: int, height: int, width: int, fps: int | float
) -> UInt8[Tensor, "b t h w 3"]:
    unit = float(min(height, width))
    pixel = 1.0 / unit
    ys = ((torch.arange(height) + 0.5 - height / 2) / unit).view(1, height, 1)
    xs = ((torch.arange(width) + 0.5 - width / 2) / unit).view(1, 1, width)
    floor = torch.tensor([BACKGROUND_COLORS[s.background] for s in scenes]).repeat_interleave(num_frames, dim=0)
    # A lamp at the upper left: the floor gets a little darker away from it.
    lamp = 1.035 - 0.075 * ((xs + 0.25) ** 2 + (ys + 0.3) ** 2)
    planes = [(lamp * floor[:, c].view(-1, 1, 1)) for c in range(3)]
    seconds = torch.tensor([s.seconds for s in scenes]).view(-1, 1)
    times = torch.minimum(torch.arange(num_frames).view(1, -1) / fps, seconds)
    for slot, shape in enumerate(shapes):
        toys = [scene.toys[slot] for scene in scenes]
        way = torch.tensor([toy.speed for toy in toys]).view(-1, 1) * times
        step = torch.tensor([MOTIONS[toy.motion] for toy in toys])
        cx = (torch.tensor([toy.x for toy in toys]).view(-1, 1) + way * step[:, :1]).reshape(-1, 1, 1)
        cy = (torch.tensor([toy.y for toy in toys]).view(-1, 1) + way * step[:, 1:]).reshape(-1, 1, 1)
        radius = torch.tensor([toy.radius for toy in toys]).repeat_interleave(num_frames).view(-1, 1, 1)
        color = torch.tensor([TOY_COLORS[toy.color] for toy in toys]).repeat_interleave(num_frames, dim=0)
        # From here on lengths are in radii of the toy, with its centre at the origin.
        x, y, edge = (xs - cx) / radius, (ys - cy) / radius, pixel / radius
        distance, shade, gloss, foot = SHAPES[shape](x, y)
        cover = (0.5 - distance / (1.3 * edge)).clamp_(0.0, 1.0)
        light = 1.0 - _shadow(x, y, *foot)
        light *= 1.0 - cover
        shade = shade * cover
        gloss = gloss * cover
        for c in range(3):
            planes[c] = planes[c].mul_(light).addcmul_(shade, color[:, c].view(-1, 1, 1)).add_(gloss)
    video = torch.stack(planes, dim=-1).mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
    return video.view(len(scenes), num_frames, height, width, 3)


def _shadow(x: Column, y: Row, foot: float, spread: float) -> Plane:
    """How much light a toy takes from the floor: a soft ellipse about its foot, leaning away from the lamp."""
    reach = ((x - 0.30) / (1.42 * spread)).square() + ((y - foot + 0.02) / (0.92 * spread)).square()
    return 0.52 * (1.0 - reach).clamp_(0.0, 1.0).square()


def _lit(normal: Sequence[Tensor | float]) -> tuple[Tensor, Tensor]:
    """Diffuse shade and highlight for a unit normal (x, y, z)."""
    diffuse = normal[0] * LIGHT[0] + normal[1] * LIGHT[1] + normal[2] * LIGHT[2]
    facing = (normal[0] * HALF[0] + normal[1] * HALF[1] + normal[2] * HALF[2]).clamp_(0.0, 1.0)
    shade = 0.68 + 0.38 * diffuse.clamp_(-0.55, 1.0)
    return shade, 0.42 * facing.square().square().square().square()


def _ball(x: Column, y: Row) -> Look:
    square = x * x + y * y
    z = (1.0 - square).clamp_(0.0, 1.0).sqrt_()
    shade, gloss = _lit((x, y, z))
    return square.sqrt() - 1.0, shade, gloss, (COS, 1.0)


def _cube(x: Column, y: Row) -> Look:
    half = 0.70  # half an edge
    cos, sin = math.cos(YAW), math.sin(YAW)
    # The silhouette of a box is the hexagon that its three edge directions span in the picture.
    spans = ((half * cos, -half * sin * SIN), (half * sin, half * cos * SIN), (0.0, -half * COS))
    sides = []
    for ex, ey in spans:
        nx, ny = -ey / math.hypot(ex, ey), ex / math.hypot(ex, ey)
        reach = sum(abs(fx * nx + fy * ny) for fx, fy in spans)
        sides.append((x * nx + y * ny).abs_().sub_(reach))
    distance = functools.reduce(torch.maximum, sides)
    # A line of sight passes the planes of the three faces that look at the camera at depths that are linear in the
    # picture; the face that shows is the last one passed. Blending them softly gives the cube rounded edges.
    weights, shades, glosses = [], [], []
    for normal in ((0.0, -COS, SIN), (sin, cos * SIN, cos * COS), (-cos, sin * SIN, sin * COS)):
        depth = (half - x * normal[0] - y * normal[1]) / normal[2]
        weights.append(depth.mul_(-BEVEL).clamp_(-40.0, 40.0).exp_())
        face_shade, face_gloss = _lit([torch.tensor(n) for n in normal])
        shades.append(weights[-1] * face_shade)
        glosses.append(weights[-1] * face_gloss)
    total, shade, gloss = (functools.reduce(torch.add, faces) for faces in (weights, shades, glosses))
    return distance, shade / total, gloss / total, (half * COS, 1.05)


def _cone(x: Column, y: Row) -> Look:
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
    return distance, *_lit(normal), (base, 1.0)


SHAPES = {"ball": _ball, "cube": _cube, "cone": _cone}
