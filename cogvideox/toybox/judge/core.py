"""Judge of the core grammar. Frozen, because published scores were measured with it. `judge.full` is a separate judge.

How each fact is read (lengths are fractions of the frame's shorter side, as in `grammar`):
- background: the palette color closest to the median color of the frame's border;
- toy mask: pixels whose color is far from every multiple of the floor's color, so that they are not floor under light
  or shadow;
- color: the palette color closest to the toy's mean color, under any light and with some floor color mixed in by blur;
- shape: the shape whose rendering at the observed position and area is closest to the pixels;
- size: the radius at which this shape has the observed area;
- motion: the displacement of the toy's center from the first frames to the last.

A fact that cannot be read is None and counts as wrong: all facts of a missing toy, shape and size of a toy in several
pieces, and the motion of a toy that disappears or does not move straight.

Axes: `b t c h w` clips, frames, colors, height, width; `m` shape x color x background.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from cogvideox.toybox.judge.preprocess import preprocess
from cogvideox.toybox.render.renderer import pixel_grid, render_scenes
from cogvideox.toybox.scenes.grammar import (
    BACKGROUND_COLORS,
    CORE,
    CORE_COLORS,
    FACTS,
    SIZES,
    ObservedFacts,
    Scene,
    Toy,
)

CLIPS_PER_BATCH = 32
FLOOR_DISTANCE = 0.16  # color distance from the floor that neither shadow nor noise reaches
AREA_RANGE = (0.012, 0.30)  # minimum and maximum area of a toy
MAX_SPREAD = 0.30  # ratio of the mask's variance to its area above which it is not a single toy; 0.16 for a disc
MIN_SATURATION = 0.25
MIN_TRAVEL = 0.12  # minimum displacement of a moving toy
MAX_SLANT = 0.6  # maximum ratio of the smaller to the larger displacement along the axes; above it, no direction
MAX_WANDER = 0.10  # maximum deviation of a track from a straight path
FRAMES_COMPARED = 5


def read_facts(videos: UInt8[Tensor, "b t h w 3"]) -> list[ObservedFacts]:
    """Read the five facts of every clip; None where a fact cannot be read. A single frame has no motion."""
    return [reading for batch in videos.split(CLIPS_PER_BATCH) for reading in _read(batch)]


@dataclass(frozen=True)
class Measurement:
    """Colors of floor and toy; and area, center and spread (variance over area) of the toy's mask in each frame."""

    floor: Float[Tensor, "b 3"]
    color: Float[Tensor, "b 3"]
    area: Float[Tensor, "b t"]
    x: Float[Tensor, "b t"]
    y: Float[Tensor, "b t"]
    spread: Float[Tensor, "b t"]


def _measure(video: Float[Tensor, "b t 3 h w"]) -> Measurement:
    """Separate toy and floor. `video` is preprocessed, in 0..1."""
    b, _, _, h, w = video.shape
    rim = max(2, min(h, w) // 24)
    sides = (video[..., :rim, :], video[..., -rim:, :], video[..., :rim], video[..., -rim:])
    floor = torch.cat([side.transpose(1, 2).flatten(2) for side in sides], dim=2).median(dim=2).values
    floor_5d = floor.view(b, 1, 3, 1, 1)
    # Under any light or shadow, the floor is a multiple of its color. The residual belongs to a toy.
    light = (video * floor_5d).sum(dim=2, keepdim=True) / floor_5d.square().sum(dim=2, keepdim=True).clamp(min=1e-4)
    distance = (video - light.clamp_(0.4, 1.12) * floor_5d).square_().sum(dim=2).sqrt_()
    strong = torch.where(distance > FLOOR_DISTANCE, distance, 0.0)
    # Typical distance of the toy's interior from the floor. The toy's edge is at half of it, with or without blur.
    typical = strong.pow(3).sum(dim=(1, 2, 3)) / strong.pow(2).sum(dim=(1, 2, 3)).clamp(min=1e-6)
    relative = distance / typical.clamp(min=FLOOR_DISTANCE).view(b, 1, 1, 1)
    mask = ((relative - 0.3) / 0.4).clamp(0.0, 1.0)
    interior = ((relative - 0.6) / 0.2).clamp(0.0, 1.0)
    color = torch.einsum("bthw,btchw->bc", interior, video) / interior.sum(dim=(1, 2, 3)).clamp(min=1e-6)[:, None]
    xs, ys = pixel_grid(h, w)
    total = mask.sum(dim=(2, 3)).clamp(min=1e-6)
    x, y = (mask * xs).sum(dim=(2, 3)) / total, (mask * ys).sum(dim=(2, 3)) / total
    variance = (mask * (xs * xs + ys * ys)).sum(dim=(2, 3)) / total - x * x - y * y
    area = total / min(h, w) ** 2
    return Measurement(floor=floor, color=color, area=area, x=x, y=y, spread=variance / area)


@functools.cache
def _reference_measurements() -> tuple[list[tuple[str, str, str]], Float[Tensor, "m 3"]]:
    """Measure, for every shape, color and background, the area at radius 1 and the offset of the measured center."""
    radius = 0.15
    kinds = list(itertools.product(CORE.shapes, CORE.colors, CORE.backgrounds))
    clips = render_scenes([_still_scene(*kind, 0.0, 0.0, radius) for kind in kinds], num_frames=1)
    m = _measure(preprocess(clips))
    return kinds, torch.stack([m.area / radius**2, m.x / radius, m.y / radius], dim=-1)[:, 0]


def _read(videos: UInt8[Tensor, "b t h w 3"]) -> list[ObservedFacts]:
    video = preprocess(videos)
    m = _measure(video)
    visible = (m.area > AREA_RANGE[0]) & (m.area < AREA_RANGE[1])
    has_toy = visible.float().mean(dim=1) > 0.5
    colors = _toy_colors(m.color, m.floor)
    floors = torch.cdist(m.floor, torch.tensor(list(BACKGROUND_COLORS.values()))).argmin(dim=1)
    saturated = 1.0 - m.color.amin(dim=1) / m.color.amax(dim=1).clamp(min=1e-3) > MIN_SATURATION
    spread = torch.stack([s[ok].median() if ok.any() else torch.tensor(9.0) for s, ok in zip(m.spread, visible)])
    shapes, radii = _shapes(video, m, visible, colors, floors)
    readings: list[ObservedFacts] = []
    for i in range(len(videos)):
        reading: ObservedFacts = dict.fromkeys(FACTS["core"])
        reading["background"] = CORE.backgrounds[int(floors[i])]
        if has_toy[i] and saturated[i]:
            reading["color"] = CORE.colors[int(colors[i])]
        if has_toy[i] and spread[i] < MAX_SPREAD:
            reading["shape"] = CORE.shapes[int(shapes[i])]
            reading["size"] = "small" if radii[i] < math.sqrt(SIZES["small"] * SIZES["large"]) else "large"
        if visible.shape[1] > 1 and visible[i].float().mean() > 0.75:
            reading["motion"] = _motion(m.x[i][visible[i]], m.y[i][visible[i]])
        readings.append(reading)
    return readings


def _shapes(
    video: Float[Tensor, "b t 3 h w"],
    m: Measurement,
    visible: Tensor,
    colors: Int[Tensor, " b"],
    floors: Int[Tensor, " b"],
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """Return the shape whose rendering is closest to the pixels, and the radius at which it has the observed area."""
    b, t, _, h, w = video.shape
    kinds, references = _reference_measurements()
    index_of = {kind: index for index, kind in enumerate(kinds)}
    frames = [int(f) for f in torch.linspace(0, t - 1, min(t, FRAMES_COMPARED)).round()]
    scenes, radii = [], torch.zeros(b, len(CORE.shapes))
    for i in range(b):
        area = float(m.area[i][visible[i]].median()) if visible[i].any() else AREA_RANGE[0]
        for k, shape in enumerate(CORE.shapes):
            kind = (shape, CORE.colors[int(colors[i])], CORE.backgrounds[int(floors[i])])
            unit_area, dx, dy = references[index_of[kind]].tolist()
            radius = math.sqrt(area / unit_area)
            radii[i, k] = radius
            for f in frames:
                x, y = float(m.x[i, f]) - dx * radius, float(m.y[i, f]) - dy * radius
                scenes.append(_still_scene(*kind, x, y, radius))
    rendered = preprocess(render_scenes(scenes, num_frames=1, height=h, width=w))
    rendered = rendered.view(b, len(CORE.shapes), len(frames), 3, h, w)
    xs, ys = pixel_grid(h, w)
    from_center = (xs - m.x[:, frames, None, None]).square() + (ys - m.y[:, frames, None, None]).square()
    near = (from_center < (1.4 * radii[:, :1].view(b, 1, 1, 1)).square()) & visible[:, frames, None, None]
    error = (rendered - video[:, None, frames]).square_().sum(dim=3) * near[:, None]
    best = error.sum(dim=(2, 3, 4)).argmin(dim=1)
    return best, radii[torch.arange(b), best]


def _motion(x: Float[Tensor, " t"], y: Float[Tensor, " t"]) -> str | None:
    track = torch.stack([x, y])
    travel = track[:, -2:].mean(dim=1) - track[:, :2].mean(dim=1)
    extent = track.amax(dim=1) - track.amin(dim=1)
    main = int(travel.abs().argmax())
    if float(travel.abs().max()) < MIN_TRAVEL:
        return "still" if float(extent.max()) < MIN_TRAVEL + MAX_WANDER else None
    slant = float(travel[1 - main].abs() / travel[main].abs())
    if slant > MAX_SLANT or float(extent[1 - main]) > MIN_TRAVEL + MAX_WANDER:
        return None
    # Averaging two frames at each end reduces the measured travel of a short clip by up to a quarter.
    if float(extent[main]) > 1.35 * float(travel[main].abs()) + MAX_WANDER:
        return None
    return (("left", "right"), ("up", "down"))[main][int(travel[main] > 0)]


def _toy_colors(observed: Float[Tensor, "b 3"], floor: Float[Tensor, "b 3"]) -> Int[Tensor, " b"]:
    """Return the nearest palette color under any light and with any admixture of the floor's color by blur."""
    palette = torch.tensor(list(CORE_COLORS.values()))
    smallest = torch.full((len(observed), len(palette)), torch.inf)
    for mixed, light in itertools.product((0.0, 0.15, 0.3, 0.45), (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)):
        candidate = (1.0 - mixed) * light * palette + mixed * floor[:, None]
        smallest = torch.minimum(smallest, (candidate - observed[:, None]).square().sum(dim=-1))
    return smallest.argmin(dim=-1)


def _still_scene(shape: str, color: str, background: str, x: float, y: float, radius: float) -> Scene:
    toy = Toy(color=color, shape=shape, size="small", motion="still", x=x, y=y, radius=radius, speed=0.0)
    return Scene(toys=(toy,), background=background)
