"""Reads all facts of the full grammar back from pixels: what `ground` and `blobs` see, put into words.

- color: the toy's mean colour in white light against the palette, with more or less light and some floor mixed in;
- shape: its picture, brought to one size, against pictures of all shapes, turned ones included;
- size: the radius that this shape needs for the area seen;
- motion: its way on the floor, with the camera's taken away, and how its size and its look change.

Axes: `t` frames, `m` pictures of shapes, `s` side of a patch.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.toybox.judge.background import Ground, balance, read_ground
from cogvideox.toybox.judge.preprocess import soften
from cogvideox.toybox.judge.segmentation import Blob, Track, find_toys
from cogvideox.toybox.render.render import render_batch
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, COUNTS, FULL, SIZES, TOY_COLORS, Scene, Seen, Toy

CLIPS_AT_ONCE = 32
UNLIKE = 0.11  # mean square difference from every shape above which a piece has none
LEAST_WAY = 0.10  # shorter ways are standing still
SWAY = 0.075  # how far something may wander off its way
GROWN = 1.26  # least ratio of radii, first to last, of growth
SPUN = 0.0026  # least change of a look, in mean squares, that is a spin
POSES = {"cube": 6, "star": 6}
"""How many angles a turned shape is known at."""


@dataclass(frozen=True)
class Reading:
    """What is seen in a clip; None where it cannot be read. The toys come in no order.

    `facts`: count, background, pattern, camera, light. `toys`: colour, shape, size and motion of each.
    """

    facts: Seen
    toys: tuple[Seen, ...]


def read_full(videos: UInt8[Tensor, "b t h w 3"]) -> list[Reading]:
    """Reads every clip by the full grammar. One frame has no motion and no camera."""
    readings: list[Reading] = []
    for part in videos.split(CLIPS_AT_ONCE):
        video = soften(part)
        white, light, found = balance(video)
        names = [kind[0] if kind else "gray" for kind in found]
        color = torch.tensor([BACKGROUND_COLORS[name] for name in names]).view(-1, 1, 3, 1, 1)
        toys, bare = find_toys(white, light[:, :, None] * color)
        for ground, tracks, name in zip(read_ground(light, bare, found), toys, names):
            readings.append(_put_into_words(ground, tracks, name))
    return readings


def _put_into_words(ground: Ground, tracks: list[Track], background: str) -> Reading:
    count = COUNTS[len(tracks) - 1] if 0 < len(tracks) <= len(COUNTS) else None
    facts: Seen = {
        "count": count,
        "background": ground.background,
        "pattern": ground.pattern,
        "camera": ground.camera,
        "light": ground.light,
    }
    return Reading(facts, tuple(_read_toy(track, ground, background) for track in tracks[: len(COUNTS)]))


def _read_toy(track: Track, ground: Ground, background: str) -> Seen:
    blobs, frames = list(track.values()), list(track)
    color = _color(torch.stack([blob.color for blob in blobs]).median(dim=0).values, background)
    patches = torch.stack([blob.patch for blob in blobs])
    changes = float((patches - patches.median(dim=0).values).square().mean())
    shape, radius = _shape(blobs, color, ground.light or "day", turned=changes > SPUN)
    size = None if radius is None else "small" if radius < math.sqrt(SIZES["small"] * SIZES["large"]) else "large"
    motion = _motion(blobs, frames, ground, changes) if len(ground.zoom) > 1 else None
    return {"color": color, "shape": shape, "size": size, "motion": motion}


def _color(seen: Float[Tensor, "3"], background: str) -> str:
    """The palette colour that comes nearest under some light and with some of the floor mixed in."""
    floor = torch.tensor(BACKGROUND_COLORS[background])
    guesses = _guesses()
    mixed = torch.tensor([0.0, 0.12, 0.25]).view(-1, 1, 1, 1)
    distance = ((1.0 - mixed) * guesses + mixed * floor - seen).square().sum(dim=-1)
    return FULL.colors[int(distance.amin(dim=(0, 1)).argmin())]


@functools.cache
def _guesses() -> Float[Tensor, "lights colors 3"]:
    lights = torch.tensor([0.65, 0.75, 0.85, 0.95, 1.05]).view(-1, 1, 1)
    return lights * torch.tensor([TOY_COLORS[name] for name in FULL.colors])


def _shape(blobs: list[Blob], color: str, light: str, *, turned: bool) -> tuple[str | None, float | None]:
    """The shape whose pictures come nearest, and the radius it needs; of shapes that turn, any angle counts."""
    names, angles, pictures, areas = _pictures(color if color in ("white", "black") else "blue", light)
    chosen = [blobs[i] for i in sorted({0, len(blobs) // 4, len(blobs) // 2, 3 * len(blobs) // 4, len(blobs) - 1})]
    patches = torch.stack([blob.patch for blob in chosen])
    errors = (patches[:, None] - pictures).square().mean(dim=(2, 3, 4))  # [frames m]
    best, radius = {}, {}
    for name in FULL.shapes:
        rows = [i for i, (shape, angle) in enumerate(zip(names, angles)) if shape == name and (turned or angle == 0)]
        least = errors[:, rows].min(dim=1)
        best[name] = float(least.values.mean())
        area = areas[torch.tensor(rows)[least.indices]]
        radius[name] = float((torch.tensor([blob.area for blob in chosen]) / area).sqrt().median())
    shape = min(best, key=best.__getitem__)
    return (shape, radius[shape]) if best[shape] < UNLIKE else (None, None)


@functools.cache
def _pictures(color: str, light: str) -> tuple[list[str], list[int], Float[Tensor, "m 2 s s"], Float[Tensor, " m"]]:
    """Pictures of every shape, small and large, turned to several angles: names, angles, patches, areas at radius 1."""
    background = {"white": "brown", "black": "white"}.get(color, "white")
    names, angles, scenes = [], [], []
    for shape, radius in itertools.product(FULL.shapes, SIZES.values()):
        for angle in range(POSES.get(shape, 1)):
            # The last frame of a clip of two shows the toy turned.
            turn = angle / POSES.get(shape, 1) / (4 if shape == "cube" else 5)
            toy = Toy(color, shape, "small", "spin" if angle else "still", 0.0, 0.0, radius, 0.0, extent=turn)
            scenes.append(Scene(toys=(toy,), background=background, light=light, grammar="full"))
            names.append(shape)
            angles.append(angle)
    clips = render_batch(scenes, num_frames=2, fps=1.0)[:, 1:]
    white, brightness, _ = balance(soften(clips))
    floor = brightness[:, :, None] * torch.tensor(BACKGROUND_COLORS[background]).view(3, 1, 1)
    blobs = [tracks[0][0] for tracks in find_toys(white, floor)[0]]
    areas = torch.tensor([blob.area / scene.toy.radius**2 for blob, scene in zip(blobs, scenes)])
    return names, angles, torch.stack([blob.patch for blob in blobs]), areas


def _motion(blobs: list[Blob], frames: list[int], ground: Ground, changes: float) -> str | None:
    zoom, shift = ground.zoom[frames], ground.shift[frames]
    x = torch.tensor([blob.x for blob in blobs]) / zoom - shift[:, 0]
    y = torch.tensor([blob.y for blob in blobs]) / zoom - shift[:, 1]
    radius = torch.tensor([blob.area for blob in blobs]).sqrt() / zoom
    grown = float(radius[-2:].mean() / radius[:2].mean())
    way = [float(place[-2:].mean() - place[:2].mean()) for place in (x, y)]
    length = [float(place.amax() - place.amin()) for place in (x, y)]
    if ground.camera != "still":
        # The camera's way is known less well than a toy's, and toys rest under a camera that moves.
        return "still" if max(length) < LEAST_WAY + SWAY / 2.0 else None
    if max(grown, 1.0 / grown) > GROWN:
        return ("grow" if grown > 1.0 else "shrink") if max(length) < LEAST_WAY else None
    if max(length) < SWAY:
        return "spin" if changes > SPUN else "still"
    if max(abs(way[0]), abs(way[1])) < 0.5 * max(length):
        if length[0] > 1.2 * LEAST_WAY and length[1] > 0.5 * length[0] - 0.02:
            return "orbit"
        return "bounce" if length[0] < SWAY and length[1] > 0.8 * LEAST_WAY else None
    main = int(abs(way[1]) > abs(way[0]))
    # The two frames averaged at either end take up to a quarter off a short clip's way.
    if abs(way[main]) < LEAST_WAY or length[1 - main] > LEAST_WAY or length[main] > 1.35 * abs(way[main]) + SWAY:
        return None
    return (("left", "right"), ("up", "down"))[main][int(way[main] > 0)]
