"""Draws scenes: an oblique parallel camera looks down at a floor with toys and their soft shadows.

Everything is analytic: a silhouette is a signed distance (anti-aliased over about one pixel), a surface is shaded from
its normal, and a shadow is a blurred ellipse on the floor. Nothing is sampled, so the picture is the same at every
size but for the width of an edge. Clips are drawn in batches, those together that hold the same kinds of things.

Axes: `n` frames of all clips of a group in a row, `y x` pixels, `b t h w` clips, frames, height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.toybox.render.floor_patterns import brightness, shades
from cogvideox.toybox.render.lighting import LAMPS, Lamp
from cogvideox.toybox.render.motion import poses
from cogvideox.toybox.render.shapes import SHAPES, Column, Plane, Row
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, PANS, TOY_COLORS, ZOOMS, Scene

PIXELS_AT_ONCE = 1 << 18  # keeps the planes of one step in the processor's cache


@dataclass(frozen=True)
class Group:
    """What the scenes drawn together have in common."""

    shapes: tuple[str, ...]
    turned: tuple[bool, ...]
    pattern: str
    light: str
    camera: str

    @classmethod
    def of(cls, scene: Scene) -> "Group":
        """The group that a scene is drawn with."""
        turned = tuple(toy.motion == "spin" for toy in scene.toys)
        return cls(tuple(toy.shape for toy in scene.toys), turned, scene.pattern, scene.light, scene.camera)


def render_batch(
    scenes: Sequence[Scene], *, num_frames: int = 9, height: int = 64, width: int = 64, fps: int | float = 8.0
) -> UInt8[Tensor, "b t h w 3"]:
    """Renders one clip per scene, frame i at i / fps seconds."""
    out = torch.empty(len(scenes), num_frames, height, width, 3, dtype=torch.uint8)
    clips = max(1, PIXELS_AT_ONCE // (num_frames * height * width))
    groups: dict[Group, list[int]] = {}
    for index, scene in enumerate(scenes):
        groups.setdefault(Group.of(scene), []).append(index)
    for group, members in groups.items():
        for first in range(0, len(members), clips):
            chosen = members[first : first + clips]
            out[chosen] = _render_group([scenes[i] for i in chosen], group, num_frames, height, width, fps)
    return out


def render(
    scene: Scene, *, num_frames: int = 9, height: int = 64, width: int = 64, fps: int | float = 8.0
) -> UInt8[Tensor, "t h w 3"]:
    """Renders one scene: see `render_batch`."""
    return render_batch([scene], num_frames=num_frames, height=height, width=width, fps=fps)[0]


def grid(h: int, w: int) -> tuple[Float[Tensor, " w"], Float[Tensor, "h 1"]]:
    """Where the pixels are, in the units of a scene."""
    unit = min(h, w)
    return (torch.arange(w) + 0.5 - w / 2) / unit, ((torch.arange(h) + 0.5 - h / 2) / unit)[:, None]


def _render_group(
    scenes: list[Scene], group: Group, num_frames: int, height: int, width: int, fps: int | float
) -> UInt8[Tensor, "b t h w 3"]:
    pixel = 1.0 / min(height, width)
    columns, rows = grid(height, width)
    xs, ys = columns.view(1, 1, width), rows.view(1, height, 1)
    seconds = torch.tensor([s.seconds for s in scenes]).view(-1, 1)
    times = torch.minimum(torch.arange(num_frames).view(1, -1) / fps, seconds)
    lamp = LAMPS[group.light]
    view = None if group.camera == "still" else _view(scenes, times / seconds.clamp(min=1e-6))

    floor = torch.tensor([BACKGROUND_COLORS[s.background] for s in scenes]).repeat_interleave(num_frames, dim=0)
    shine = lamp.shine(xs, ys)
    if group.pattern != "plain":
        shine = shine * _pattern(scenes, group.pattern, xs, ys, view, num_frames, pixel)
    planes = [(shine * (floor[:, c] * lamp.tint[c]).view(-1, 1, 1)) for c in range(3)]

    looks = []
    light: Plane | float = 1.0
    for slot, (shape, turned) in enumerate(zip(group.shapes, group.turned)):
        toys = [scene.toys[slot] for scene in scenes]
        pose = poses(toys, times, seconds)
        cx, cy, radius = pose.x.reshape(-1, 1, 1), pose.y.reshape(-1, 1, 1), pose.radius.reshape(-1, 1, 1)
        if view is not None:
            cx, cy, radius = (cx - view.x) * view.zoom, (cy - view.y) * view.zoom, radius * view.zoom
        # From here on lengths are in radii of the toy, with its centre at the origin.
        x, y, edge = (xs - cx) / radius, (ys - cy) / radius, pixel / radius
        turn = pose.turn.reshape(-1, 1, 1) if turned else None
        distance, shade, gloss, (foot, spread) = SHAPES[shape](x, y, lamp, turn)
        cover = (0.5 - distance / (1.3 * edge)).clamp_(0.0, 1.0)
        if any(toy.motion == "bounce" for toy in toys):
            foot = foot + pose.lift.reshape(-1, 1, 1) / radius  # the shadow stays on the floor
        light = light * (1.0 - _shadow(x, y, foot, spread, lamp))
        looks.append((toys, cover, shade * cover, gloss * cover))
    # Shadows fall on the floor; the toys stand on it and cover them.
    for number, (toys, cover, shade, gloss) in enumerate(looks):
        color = torch.tensor([TOY_COLORS[toy.color] for toy in toys]).repeat_interleave(num_frames, dim=0)
        light = (1.0 - cover) if number else light * (1.0 - cover)
        for c, tint in enumerate(lamp.tint):
            planes[c].mul_(light).addcmul_(shade, (color[:, c] * tint).view(-1, 1, 1)).add_(gloss, alpha=tint)
    video = torch.stack(planes, dim=-1).mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
    return video.view(len(scenes), num_frames, height, width, 3)


@dataclass(frozen=True)
class View:
    """Where the camera is: the place on the floor at the middle of the frame, and how much it enlarges."""

    x: Float[Tensor, "n 1 1"]
    y: Float[Tensor, "n 1 1"]
    zoom: Float[Tensor, "n 1 1"]


def _view(scenes: Sequence[Scene], u: Float[Tensor, "b t"]) -> View:
    """Views of scenes whose cameras all do the same; `u` is the share of the scene's time that is over."""
    way = torch.tensor([scene.way for scene in scenes]).view(-1, 1)
    dx, dy = PANS.get(scenes[0].camera, (0.0, 0.0))
    zoom = torch.ones_like(u)
    if scenes[0].camera in ZOOMS:
        # An even zoom enlarges by the same factor in every frame; it ends, or begins, at the plain view.
        zoom = way.clamp(min=1.0) ** (u if scenes[0].camera == "zoom in" else 1.0 - u)
    return View(*(value.reshape(-1, 1, 1) for value in (dx * way * u, dy * way * u, zoom)))


def _pattern(
    scenes: Sequence[Scene],
    pattern: str,
    xs: Float[Tensor, "1 1 x"],
    ys: Float[Tensor, "1 y 1"],
    view: View | None,
    num_frames: int,
    pixel: float,
) -> Plane:
    """The brightness of the floor under a view."""
    shade = torch.tensor([shades(scene.background)[1] for scene in scenes]).repeat_interleave(num_frames)
    phase = [scene.phase for scene in scenes for _ in range(num_frames)]
    edge: float | Tensor = 1.2 * pixel
    if view is not None:
        xs, ys, edge = xs / view.zoom + view.x, ys / view.zoom + view.y, edge / view.zoom
    return brightness(pattern, xs, ys, phase, shade.view(-1, 1, 1), edge)


def _shadow(x: Column, y: Row, foot: float | Tensor, spread: float, lamp: Lamp) -> Plane:
    """How much light a toy takes from the floor: a soft ellipse about its foot, leaning away from the lamp."""
    (lean_x, lean_y), (wide, low) = lamp.lean, lamp.shadow
    reach = ((x - lean_x) / (wide * spread)).square() + ((y - foot - lean_y) / (low * spread)).square()
    return lamp.depth * (1.0 - reach).clamp_(0.0, 1.0).square()
