"""Reads the five facts of the core grammar back from pixels.

How each fact is read (lengths are fractions of the shorter side, as in `grammar`):
- background: the median colour of the frame's border, against the palette;
- the toy: pixels that no light or shadow could make of the floor, that is those far from every multiple of its colour;
- color: the toy's mean colour against the palette, under any light and with some of the floor mixed in by a blur;
- shape: the toy is drawn as each shape at the place and of the area that was seen, and the closest picture wins;
- size: the radius that this shape needs for the area seen;
- motion: the way of the toy's centre from the first frames to the last.

A fact that cannot be read is None and counts as wrong: no toy, a toy in pieces (no shape, no size), a toy that vanishes
or wanders (no motion).

Axes: `b t c h w` clips, frames, colours, height, width; `m` shape x colour x background.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from cogvideox.toybox.judge.preprocess import soften
from cogvideox.toybox.render.render import grid, render_batch
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, CORE, CORE_COLORS, FACTS, SIZES, Scene, Seen, Toy

CLIPS_AT_ONCE = 32
FAR_FROM_FLOOR = 0.16  # colour distance that neither shadow nor noise reaches
AREA = (0.012, 0.30)  # least and greatest area of what counts as a toy
PIECES = 0.30  # spread of the mask (variance over area; a disc has 0.16) above which it is not one toy
LEAST_SATURATION = 0.25
LEAST_WAY = 0.12  # shorter ways are standing still
SLANT = 0.6  # greatest ratio of the ways along the two axes for a motion to have a direction
WANDERING = 0.10  # how far a track may leave what its ends say
FRAMES_COMPARED = 5


def read_batch(videos: UInt8[Tensor, "b t h w 3"]) -> list[Seen]:
    """Reads the five facts of every clip; None where a fact cannot be read. One frame has no motion."""
    readings: list[Seen] = []
    for part in videos.split(CLIPS_AT_ONCE):
        readings += _read(part)
    return readings


def read(frames: UInt8[Tensor, "t h w 3"]) -> Seen:
    """Reads one clip: see `read_batch`."""
    return read_batch(frames[None])[0]


@dataclass(frozen=True)
class Sight:
    """What is seen of the floor and of the toy, before any word is put to it."""

    floor: Float[Tensor, "b 3"]
    color: Float[Tensor, "b 3"]
    area: Float[Tensor, "b t"]
    x: Float[Tensor, "b t"]
    y: Float[Tensor, "b t"]
    spread: Float[Tensor, "b t"]


def _look(video: Float[Tensor, "b t 3 h w"]) -> Sight:
    """Separates toy and floor; `video` in 0..1, a little blurred so that noise does not count."""
    b, _, _, h, w = video.shape
    rim = max(2, min(h, w) // 24)
    sides = (video[..., :rim, :], video[..., -rim:, :], video[..., :rim], video[..., -rim:])
    floor = torch.cat([side.transpose(1, 2).flatten(2) for side in sides], dim=2).median(dim=2).values
    wide = floor.view(b, 1, 3, 1, 1)
    # The floor under any light or shadow is a multiple of its colour; what is left over belongs to a toy.
    light = (video * wide).sum(dim=2, keepdim=True) / wide.square().sum(dim=2, keepdim=True).clamp(min=1e-4)
    away = (video - light.clamp_(0.4, 1.12) * wide).square_().sum(dim=2).sqrt_()
    strong = torch.where(away > FAR_FROM_FLOOR, away, 0.0)
    # How far the middle of the toy is from the floor; half of it is where its edge runs, blurred or not.
    typical = strong.pow(3).sum(dim=(1, 2, 3)) / strong.pow(2).sum(dim=(1, 2, 3)).clamp(min=1e-6)
    share = away / typical.clamp(min=FAR_FROM_FLOOR).view(b, 1, 1, 1)
    mask = ((share - 0.3) / 0.4).clamp(0.0, 1.0)
    core = ((share - 0.6) / 0.2).clamp(0.0, 1.0)
    color = torch.einsum("bthw,btchw->bc", core, video) / core.sum(dim=(1, 2, 3)).clamp(min=1e-6)[:, None]
    xs, ys = grid(h, w)
    total = mask.sum(dim=(2, 3)).clamp(min=1e-6)
    x, y = (mask * xs).sum(dim=(2, 3)) / total, (mask * ys).sum(dim=(2, 3)) / total
    square = (mask * (xs * xs + ys * ys)).sum(dim=(2, 3)) / total - x * x - y * y
    area = total / min(h, w) ** 2
    return Sight(floor=floor, color=color, area=area, x=x, y=y, spread=square / area)


@functools.cache
def _palette() -> tuple[list[tuple[str, str, str]], Float[Tensor, "m 3"]]:
    """For every shape, colour and background: its look's area at radius 1, and the offset of its middle."""
    radius = 0.15
    kinds = list(itertools.product(CORE.shapes, CORE.colors, CORE.backgrounds))
    sight = _look(soften(render_batch([_still(*kind, 0.0, 0.0, radius) for kind in kinds], num_frames=1)))
    return kinds, torch.stack([sight.area / radius**2, sight.x / radius, sight.y / radius], dim=-1)[:, 0]


def _read(videos: UInt8[Tensor, "b t h w 3"]) -> list[Seen]:
    video = soften(videos)
    sight = _look(video)
    seen = (sight.area > AREA[0]) & (sight.area < AREA[1])
    found = seen.float().mean(dim=1) > 0.5
    colors = _toy_colors(sight.color, sight.floor)
    floors = torch.cdist(sight.floor, torch.tensor(list(BACKGROUND_COLORS.values()))).argmin(dim=1)
    saturated = 1.0 - sight.color.amin(dim=1) / sight.color.amax(dim=1).clamp(min=1e-3) > LEAST_SATURATION
    whole = torch.stack([s[ok].median() if ok.any() else torch.tensor(9.0) for s, ok in zip(sight.spread, seen)])
    shapes, radii = _shapes(video, sight, seen, colors, floors)
    readings: list[Seen] = []
    for i in range(len(videos)):
        reading: Seen = dict.fromkeys(FACTS["core"])
        reading["background"] = CORE.backgrounds[int(floors[i])]
        if found[i] and saturated[i]:
            reading["color"] = CORE.colors[int(colors[i])]
        if found[i] and whole[i] < PIECES:
            reading["shape"] = CORE.shapes[int(shapes[i])]
            reading["size"] = "small" if radii[i] < math.sqrt(SIZES["small"] * SIZES["large"]) else "large"
        if seen.shape[1] > 1 and seen[i].float().mean() > 0.75:
            reading["motion"] = _motion(sight.x[i][seen[i]], sight.y[i][seen[i]])
        readings.append(reading)
    return readings


def _shapes(
    video: Float[Tensor, "b t 3 h w"],
    sight: Sight,
    seen: Tensor,
    colors: Int[Tensor, " b"],
    floors: Int[Tensor, " b"],
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """The shape that explains the pixels best, and the radius it needs."""
    b, t, _, h, w = video.shape
    kinds, measures = _palette()
    place = {kind: index for index, kind in enumerate(kinds)}
    chosen = [int(f) for f in torch.linspace(0, t - 1, min(t, FRAMES_COMPARED)).round()]
    scenes, radii = [], torch.zeros(b, len(CORE.shapes))
    for i in range(b):
        area = float(sight.area[i][seen[i]].median()) if seen[i].any() else AREA[0]
        for k, shape in enumerate(CORE.shapes):
            kind = (shape, CORE.colors[int(colors[i])], CORE.backgrounds[int(floors[i])])
            unit_area, dx, dy = measures[place[kind]].tolist()
            radius = math.sqrt(area / unit_area)
            radii[i, k] = radius
            for f in chosen:
                x, y = float(sight.x[i, f]) - dx * radius, float(sight.y[i, f]) - dy * radius
                scenes.append(_still(*kind, x, y, radius))
    drawn = soften(render_batch(scenes, num_frames=1, height=h, width=w))
    drawn = drawn.view(b, len(CORE.shapes), len(chosen), 3, h, w)
    xs, ys = grid(h, w)
    from_toy = (xs - sight.x[:, chosen, None, None]).square() + (ys - sight.y[:, chosen, None, None]).square()
    near = (from_toy < (1.4 * radii[:, :1].view(b, 1, 1, 1)).square()) & seen[:, chosen, None, None]
    error = (drawn - video[:, None, chosen]).square_().sum(dim=3) * near[:, None]
    best = error.sum(dim=(2, 3, 4)).argmin(dim=1)
    return best, radii[torch.arange(b), best]


def _motion(x: Float[Tensor, " t"], y: Float[Tensor, " t"]) -> str | None:
    track = torch.stack([x, y])
    way = track[:, -2:].mean(dim=1) - track[:, :2].mean(dim=1)
    length = track.amax(dim=1) - track.amin(dim=1)
    main = int(way.abs().argmax())
    if float(way.abs().max()) < LEAST_WAY:
        return "still" if float(length.max()) < LEAST_WAY + WANDERING else None
    if float(way[1 - main].abs() / way[main].abs()) > SLANT or float(length[1 - main]) > LEAST_WAY + WANDERING:
        return None
    # The two frames averaged at either end take up to a quarter off a short clip's way.
    if float(length[main]) > 1.35 * float(way[main].abs()) + WANDERING:
        return None
    return (("left", "right"), ("up", "down"))[main][int(way[main] > 0)]


def _toy_colors(seen: Float[Tensor, "b 3"], floor: Float[Tensor, "b 3"]) -> Int[Tensor, " b"]:
    """The palette colour that comes nearest under some light and with some of the floor mixed in."""
    known = torch.tensor(list(CORE_COLORS.values()))
    best = torch.full((len(seen), len(known)), torch.inf)
    for mixed, light in itertools.product((0.0, 0.15, 0.3, 0.45), (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)):
        guess = (1.0 - mixed) * light * known + mixed * floor[:, None]
        best = torch.minimum(best, (guess - seen[:, None]).square().sum(dim=-1))
    return best.argmin(dim=-1)


def _still(shape: str, color: str, background: str, x: float, y: float, radius: float) -> Scene:
    toy = Toy(color=color, shape=shape, size="small", motion="still", x=x, y=y, radius=radius, speed=0.0)
    return Scene(toys=(toy,), background=background)
