"""Judge of the full grammar: reads all facts of a scene from pixels. `judge.core` is a separate, frozen judge.

`background` reads the scene (background, light, pattern, camera), `segmentation` finds the toys, and this module reads
the facts of each toy:

- color: the palette color closest to its mean color in white light, at any brightness and with some floor mixed in;
- shape: the shape of the reference patch closest to its normalized patch, at any rotation;
- size: the radius at which this shape has the observed area;
- motion: from its path relative to the floor (without camera motion), and changes of its size and appearance.

Axes: `t` frames, `m` reference patches, `s` side of a patch.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.toybox.judge.background import SceneFacts, read_scene_facts, white_balance
from cogvideox.toybox.judge.preprocess import preprocess
from cogvideox.toybox.judge.segmentation import Blob, Track, find_toys
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.grammar import (
    BACKGROUND_COLORS,
    COUNTS,
    FULL,
    SIZES,
    TOY_COLORS,
    ObservedFacts,
    Scene,
    Toy,
)

CLIPS_PER_BATCH = 32
MAX_SHAPE_ERROR = 0.11  # mean squared difference above which a patch matches no shape
MIN_TRAVEL = 0.10  # minimum displacement of a moving toy
MAX_WANDER = 0.075  # maximum deviation from a straight path
MIN_GROWTH = 1.26  # minimum ratio of last to first radius of a growing toy, or of first to last of a shrinking one
MIN_SPIN = 0.0026  # minimum mean squared change of the patch of a spinning toy
NUM_ANGLES = {"cube": 6, "star": 6}
"""Number of rotation angles in the reference patches of a shape that can spin."""


@dataclass(frozen=True)
class SceneReading:
    """Observed facts of a clip; None where a fact cannot be read.

    Attributes:
        facts: count, background, pattern, camera, light.
        toys: color, shape, size and motion of each toy, in no particular order; at most as many as a scene can have.
        num_toys: number of all toys.
    """

    facts: ObservedFacts
    toys: tuple[ObservedFacts, ...]
    num_toys: int


def read_scenes(videos: UInt8[Tensor, "b t h w 3"]) -> list[SceneReading]:
    """Read all facts of every clip. A single frame has no motion and no camera."""
    readings: list[SceneReading] = []
    for batch in videos.split(CLIPS_PER_BATCH):
        white, brightness, recognized = white_balance(preprocess(batch))
        backgrounds = [kind[0] if kind else "gray" for kind in recognized]
        color = torch.tensor([BACKGROUND_COLORS[name] for name in backgrounds]).view(-1, 1, 3, 1, 1)
        toys, is_floor = find_toys(white, brightness[:, :, None] * color)
        for scene, tracks, name in zip(read_scene_facts(brightness, is_floor, recognized), toys, backgrounds):
            readings.append(_read_scene(scene, tracks, name))
    return readings


def _read_scene(scene: SceneFacts, tracks: list[Track], background: str) -> SceneReading:
    count = COUNTS[len(tracks) - 1] if 0 < len(tracks) <= len(COUNTS) else None
    facts: ObservedFacts = {
        "count": count,
        "background": scene.background,
        "pattern": scene.pattern,
        "camera": scene.camera,
        "light": scene.light,
    }
    toys = tuple(_read_toy(track, scene, background) for track in tracks[: len(COUNTS)])
    return SceneReading(facts, toys, len(tracks))


def _read_toy(track: Track, scene: SceneFacts, background: str) -> ObservedFacts:
    blobs, frames = list(track.values()), list(track)
    color = _color(torch.stack([blob.color for blob in blobs]).median(dim=0).values, background)
    patches = torch.stack([blob.patch for blob in blobs])
    change = float((patches - patches.median(dim=0).values).square().mean())
    shape, radius = _shape(blobs, color, scene.light or "day", rotated=change > MIN_SPIN)
    size = None if radius is None else "small" if radius < math.sqrt(SIZES["small"] * SIZES["large"]) else "large"
    motion = _motion(blobs, frames, scene, change) if len(scene.zoom) > 1 else None
    return {"color": color, "shape": shape, "size": size, "motion": motion}


def _color(observed: Float[Tensor, "3"], background: str) -> str:
    """Return the nearest palette color at any brightness and with any admixture of the floor's color by blur."""
    floor = torch.tensor(BACKGROUND_COLORS[background])
    mixed = torch.tensor([0.0, 0.12, 0.25]).view(-1, 1, 1, 1)
    distance = ((1.0 - mixed) * _palette() + mixed * floor - observed).square().sum(dim=-1)
    return FULL.colors[int(distance.amin(dim=(0, 1)).argmin())]


@functools.cache
def _palette() -> Float[Tensor, "levels colors 3"]:
    levels = torch.tensor([0.65, 0.75, 0.85, 0.95, 1.05]).view(-1, 1, 1)
    return levels * torch.tensor([TOY_COLORS[name] for name in FULL.colors])


def _shape(blobs: list[Blob], color: str, light: str, *, rotated: bool) -> tuple[str | None, float | None]:
    """Return the shape with the closest reference patch (at any angle if `rotated`), and its radius."""
    names, angles, references, areas = _reference_patches(color if color in ("white", "black") else "blue", light)
    chosen = [blobs[i] for i in sorted({0, len(blobs) // 4, len(blobs) // 2, 3 * len(blobs) // 4, len(blobs) - 1})]
    patches = torch.stack([blob.patch for blob in chosen])
    errors = (patches[:, None] - references).square().mean(dim=(2, 3, 4))  # [frames m]
    best, radius = {}, {}
    for name in FULL.shapes:
        rows = [i for i, (shape, angle) in enumerate(zip(names, angles)) if shape == name and (rotated or angle == 0)]
        closest = errors[:, rows].min(dim=1)
        best[name] = float(closest.values.mean())
        area = areas[torch.tensor(rows)[closest.indices]]
        radius[name] = float((torch.tensor([blob.area for blob in chosen]) / area).sqrt().median())
    shape = min(best, key=best.__getitem__)
    return (shape, radius[shape]) if best[shape] < MAX_SHAPE_ERROR else (None, None)


@functools.cache
def _reference_patches(
    color: str, light: str
) -> tuple[list[str], list[int], Float[Tensor, "m 2 s s"], Float[Tensor, " m"]]:
    """Render every shape in both sizes and at several angles.

    Returns:
        Shape, angle, patch, and area at radius 1 of each rendering.
    """
    background = {"white": "brown", "black": "white"}.get(color, "white")
    names, angles, scenes = [], [], []
    for shape, radius in itertools.product(FULL.shapes, SIZES.values()):
        for angle in range(NUM_ANGLES.get(shape, 1)):
            # The second of two frames shows the toy at this rotation.
            turns = angle / NUM_ANGLES.get(shape, 1) / (4 if shape == "cube" else 5)
            toy = Toy(color, shape, "small", "spin" if angle else "still", 0.0, 0.0, radius, 0.0, extent=turns)
            scenes.append(Scene(toys=(toy,), background=background, light=light, grammar="full"))
            names.append(shape)
            angles.append(angle)
    clips = render_scenes(scenes, num_frames=2, fps=1.0)[:, 1:]
    white, brightness, _ = white_balance(preprocess(clips))
    floor = brightness[:, :, None] * torch.tensor(BACKGROUND_COLORS[background]).view(3, 1, 1)
    blobs = [tracks[0][0] for tracks in find_toys(white, floor)[0]]
    areas = torch.tensor([blob.area / scene.toy.radius**2 for blob, scene in zip(blobs, scenes)])
    return names, angles, torch.stack([blob.patch for blob in blobs]), areas


def _motion(blobs: list[Blob], frames: list[int], scene: SceneFacts, change: float) -> str | None:
    zoom, shift = scene.zoom[frames], scene.shift[frames]
    x = torch.tensor([blob.x for blob in blobs]) / zoom - shift[:, 0]
    y = torch.tensor([blob.y for blob in blobs]) / zoom - shift[:, 1]
    radius = torch.tensor([blob.area for blob in blobs]).sqrt() / zoom
    growth = float(radius[-2:].mean() / radius[:2].mean())
    travel = [float(coords[-2:].mean() - coords[:2].mean()) for coords in (x, y)]
    extent = [float(coords.amax() - coords.amin()) for coords in (x, y)]
    if scene.camera != "still":
        # Toys are at rest under a moving camera, whose motion is measured less precisely than a toy's.
        return "still" if max(extent) < MIN_TRAVEL + MAX_WANDER / 2.0 else None
    if max(growth, 1.0 / growth) > MIN_GROWTH:
        return ("grow" if growth > 1.0 else "shrink") if max(extent) < MIN_TRAVEL else None
    if max(extent) < MAX_WANDER:
        return "spin" if change > MIN_SPIN else "still"
    if max(abs(travel[0]), abs(travel[1])) < 0.5 * max(extent):
        if extent[0] > 1.2 * MIN_TRAVEL and extent[1] > 0.5 * extent[0] - 0.02:
            return "orbit"
        return "bounce" if extent[0] < MAX_WANDER and extent[1] > 0.8 * MIN_TRAVEL else None
    main = int(abs(travel[1]) > abs(travel[0]))
    if abs(travel[main]) < MIN_TRAVEL or extent[1 - main] > MIN_TRAVEL:
        return None
    # Averaging two frames at each end reduces the measured travel of a short clip by up to a quarter.
    if extent[main] > 1.35 * abs(travel[main]) + MAX_WANDER:
        return None
    return (("left", "right"), ("up", "down"))[main][int(travel[main] > 0)]
