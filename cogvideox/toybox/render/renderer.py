"""Renderer of scenes: an oblique parallel camera looks down at a floor with toys and their soft shadows.

Everything is analytic: a silhouette is a signed distance (anti-aliased over about one pixel), a surface is shaded from
its normal, and a shadow is a soft ellipse on the floor. An image therefore looks the same at every size, except for the
width of edges. Scenes with the same `RenderGroup` are rendered in one batch.

Axes: `n` frames of all clips of a group, concatenated; `y x` pixels; `b t h w` clips, frames, height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.toybox.render.floor_patterns import brightness, shades
from cogvideox.toybox.render.lighting import LIGHTS, LightSource
from cogvideox.toybox.render.motion import toy_poses
from cogvideox.toybox.render.shapes import SHAPES, ImagePlane, XCoords, YCoords
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, PANS, TOY_COLORS, ZOOMS, Scene

PIXELS_PER_BATCH = 1 << 18  # small enough for the intermediate planes to stay in the CPU cache


@dataclass(frozen=True)
class RenderGroup:
    """Common properties of scenes that are rendered in one batch."""

    shapes: tuple[str, ...]
    spinning: tuple[bool, ...]
    pattern: str
    light: str
    camera: str

    @classmethod
    def of(cls, scene: Scene) -> "RenderGroup":
        """Return the group of a scene."""
        spinning = tuple(toy.motion == "spin" for toy in scene.toys)
        return cls(tuple(toy.shape for toy in scene.toys), spinning, scene.pattern, scene.light, scene.camera)


def render_scenes(
    scenes: Sequence[Scene], *, num_frames: int = 9, height: int = 64, width: int = 64, fps: int | float = 8.0
) -> UInt8[Tensor, "b t h w 3"]:
    """Render a clip of each scene. Frame i shows the scene at i / fps seconds."""
    out = torch.empty(len(scenes), num_frames, height, width, 3, dtype=torch.uint8)
    batch_size = max(1, PIXELS_PER_BATCH // (num_frames * height * width))
    groups: dict[RenderGroup, list[int]] = {}
    for index, scene in enumerate(scenes):
        groups.setdefault(RenderGroup.of(scene), []).append(index)
    for group, indices in groups.items():
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            out[batch] = _render_group([scenes[i] for i in batch], group, num_frames, height, width, fps)
    return out


def render_scene(
    scene: Scene, *, num_frames: int = 9, height: int = 64, width: int = 64, fps: int | float = 8.0
) -> UInt8[Tensor, "t h w 3"]:
    """Render a single scene: see `render_scenes`."""
    return render_scenes([scene], num_frames=num_frames, height=height, width=width, fps=fps)[0]


def pixel_grid(h: int, w: int) -> tuple[Float[Tensor, " w"], Float[Tensor, "h 1"]]:
    """Return the x and y coordinates of pixel centers, in scene units."""
    unit = min(h, w)
    return (torch.arange(w) + 0.5 - w / 2) / unit, ((torch.arange(h) + 0.5 - h / 2) / unit)[:, None]


def _render_group(
    scenes: list[Scene], group: RenderGroup, num_frames: int, height: int, width: int, fps: int | float
) -> UInt8[Tensor, "b t h w 3"]:
    pixel = 1.0 / min(height, width)
    columns, rows = pixel_grid(height, width)
    xs, ys = columns.view(1, 1, width), rows.view(1, height, 1)
    seconds = torch.tensor([s.seconds for s in scenes]).view(-1, 1)
    times = torch.minimum(torch.arange(num_frames).view(1, -1) / fps, seconds)
    light = LIGHTS[group.light]
    camera = None if group.camera == "still" else _camera_pose(scenes, times / seconds.clamp(min=1e-6))

    floor = torch.tensor([BACKGROUND_COLORS[s.background] for s in scenes]).repeat_interleave(num_frames, dim=0)
    floor_brightness = light.floor_brightness(xs, ys)
    if group.pattern != "plain":
        floor_brightness = floor_brightness * _pattern(scenes, group.pattern, xs, ys, camera, num_frames, pixel)
    planes = [(floor_brightness * (floor[:, c] * light.tint[c]).view(-1, 1, 1)) for c in range(3)]

    surfaces = []
    visible_floor: ImagePlane | float = 1.0
    for slot, (shape, spinning) in enumerate(zip(group.shapes, group.spinning)):
        toys = [scene.toys[slot] for scene in scenes]
        pose = toy_poses(toys, times, seconds)
        cx, cy, radius = pose.x.reshape(-1, 1, 1), pose.y.reshape(-1, 1, 1), pose.radius.reshape(-1, 1, 1)
        if camera is not None:
            cx, cy, radius = (cx - camera.x) * camera.zoom, (cy - camera.y) * camera.zoom, radius * camera.zoom
        # From here on, lengths are in radii of the toy, and its center is the origin.
        x, y, edge = (xs - cx) / radius, (ys - cy) / radius, pixel / radius
        rotation = pose.rotation.reshape(-1, 1, 1) if spinning else None
        distance, shade, highlight, (shadow_y, shadow_scale) = SHAPES[shape](x, y, light, rotation)
        coverage = (0.5 - distance / (1.3 * edge)).clamp_(0.0, 1.0)
        if any(toy.motion == "bounce" for toy in toys):
            shadow_y = shadow_y + pose.height.reshape(-1, 1, 1) / radius  # the shadow stays on the floor
        visible_floor = visible_floor * (1.0 - _shadow(x, y, shadow_y, shadow_scale, light))
        surfaces.append((toys, coverage, shade * coverage, highlight * coverage))
    # All shadows are on the floor, so they are applied before the first toy is composited.
    for i, (toys, coverage, shade, highlight) in enumerate(surfaces):
        color = torch.tensor([TOY_COLORS[toy.color] for toy in toys]).repeat_interleave(num_frames, dim=0)
        behind = (1.0 - coverage) if i else visible_floor * (1.0 - coverage)
        for c, tint in enumerate(light.tint):
            planes[c].mul_(behind).addcmul_(shade, (color[:, c] * tint).view(-1, 1, 1)).add_(highlight, alpha=tint)
    video = torch.stack(planes, dim=-1).mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
    return video.view(len(scenes), num_frames, height, width, 3)


@dataclass(frozen=True)
class CameraPose:
    """The camera over time: the floor position at the center of the frame, and the magnification."""

    x: Float[Tensor, "n 1 1"]
    y: Float[Tensor, "n 1 1"]
    zoom: Float[Tensor, "n 1 1"]


def _camera_pose(scenes: Sequence[Scene], u: Float[Tensor, "b t"]) -> CameraPose:
    """Compute camera poses of scenes with the same camera motion; `u` is the elapsed fraction of each scene's time."""
    extent = torch.tensor([scene.camera_extent for scene in scenes]).view(-1, 1)
    dx, dy = PANS.get(scenes[0].camera, (0.0, 0.0))
    zoom = torch.ones_like(u)
    if scenes[0].camera in ZOOMS:
        # A zoom magnifies by a constant factor per frame, from or to magnification 1.
        zoom = extent.clamp(min=1.0) ** (u if scenes[0].camera == "zoom in" else 1.0 - u)
    return CameraPose(*(value.reshape(-1, 1, 1) for value in (dx * extent * u, dy * extent * u, zoom)))


def _pattern(
    scenes: Sequence[Scene],
    pattern: str,
    xs: Float[Tensor, "1 1 x"],
    ys: Float[Tensor, "1 y 1"],
    camera: CameraPose | None,
    num_frames: int,
    pixel: float,
) -> ImagePlane:
    """Compute the brightness of the floor pattern as seen by the camera, relative to a plain floor."""
    shade = torch.tensor([shades(scene.background)[1] for scene in scenes]).repeat_interleave(num_frames)
    phase = [scene.pattern_phase for scene in scenes for _ in range(num_frames)]
    edge: float | Tensor = 1.2 * pixel
    if camera is not None:
        xs, ys, edge = xs / camera.zoom + camera.x, ys / camera.zoom + camera.y, edge / camera.zoom
    return brightness(pattern, xs, ys, phase, shade.view(-1, 1, 1), edge)


def _shadow(x: XCoords, y: YCoords, center_y: float | Tensor, scale: float, light: LightSource) -> ImagePlane:
    """Compute the fraction of the floor's light that a toy blocks: a soft ellipse, offset away from the light."""
    (offset_x, offset_y), (radius_x, radius_y) = light.shadow_offset, light.shadow_radii
    r = ((x - offset_x) / (radius_x * scale)).square() + ((y - center_y - offset_y) / (radius_y * scale)).square()
    return light.shadow_strength * (1.0 - r).clamp_(0.0, 1.0).square()
