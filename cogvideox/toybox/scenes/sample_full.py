"""Draws scenes of the full grammar: what may go together (the table in `scene`), and room for every toy.

The later word follows from the earlier one: the camera decides which floors and motions are left, the floor which
colours, the shape which motions. Where toys find no room, the scene is drawn again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cogvideox.toybox.render.motion import Box, sweep
from cogvideox.toybox.scenes.grammar import (
    CLASHES,
    FULL,
    MARGIN,
    MOTIONS,
    PANS,
    SIZE_JITTER,
    SIZES,
    SPIN,
    UNLIT,
    ZOOMS,
    Scene,
    Toy,
)

# A mostly still camera and daylight: what a scene shows is mostly what its toys do.
CHANCES = {"one": 0.40, "two": 0.35, "three": 0.25}
STILL_CAMERA = 0.65
DAYLIGHT = 0.5
PLAIN = 0.25
ALIKE = 0.25
"""Chance of several toys that are alike in every word."""
GAP = 0.045
"""Least distance between the boxes that two toys keep to."""
CROWDED = {"one": 1.0, "two": 0.82, "three": 0.68}
"""What is left of a motion's extent where there are so many toys."""
EXTENTS = {
    "left": (0.33, 0.42),
    "right": (0.33, 0.42),
    "up": (0.33, 0.42),
    "down": (0.33, 0.42),
    "bounce": (0.19, 0.24),
    "orbit": (0.14, 0.17),
    "pan": (0.28, 0.34),
}
GROWTH = (1.6, 1.72)
ZOOM = (1.36, 1.44)
LAYOUTS, ATTEMPTS = 20, 16
"""How often toys, and a place for a toy, are looked for before the scene is given up."""

Dice = Iterator[float]


def draw_full(rng: np.random.Generator, seconds: float, fixed: Mapping[str, str]) -> Scene | None:
    """One draw; None where `fixed` contradicts what else was drawn, or the toys find no room."""
    dice = _dice(rng)
    words = _scene_words(dice, fixed)
    if words is None:
        return None
    way = 0.0
    if words["camera"] in PANS:
        way = _between(EXTENTS["pan"], next(dice)) * CROWDED[words["count"]]
    elif words["camera"] in ZOOMS:
        way = _between(ZOOM, next(dice))
    for _ in range(LAYOUTS):
        kinds = _toys_words(dice, words, fixed)
        if kinds is None:
            return None
        toys = _place(kinds, words["camera"], way, seconds, dice)
        if toys is not None:
            return Scene(
                toys=toys,
                background=words["background"],
                seconds=seconds,
                grammar="full",
                pattern=words["pattern"],
                camera=words["camera"],
                light=words["light"],
                way=way if seconds > 0 else 0.0,
                phase=(next(dice), next(dice)),
            )
    return None


def _scene_words(dice: Dice, fixed: Mapping[str, str]) -> dict[str, str] | None:
    camera = "still" if next(dice) < STILL_CAMERA else _pick(FULL.cameras[1:], dice)
    camera = fixed.get("camera", camera)
    patterns = patterns_under(camera)
    pattern = "plain" if next(dice) < PLAIN and "plain" in patterns else _pick(patterns, dice)
    pattern = fixed.get("pattern", pattern)
    light = "day" if next(dice) < DAYLIGHT else _pick(FULL.lights[1:], dice)
    light = fixed.get("light", light)
    background = fixed.get("background", _pick(backgrounds_under(light), dice))
    chance = next(dice)
    count = "one" if chance < CHANCES["one"] else "two" if chance < CHANCES["one"] + CHANCES["two"] else "three"
    count = fixed.get("count", count)
    if pattern not in patterns or background not in backgrounds_under(light):
        return None
    return {"camera": camera, "pattern": pattern, "light": light, "background": background, "count": count}


def _toys_words(dice: Dice, words: Mapping[str, str], fixed: Mapping[str, str]) -> list[tuple[str, ...]] | None:
    """Colour, shape, size and motion of every toy."""
    number = 1 + FULL.counts.index(words["count"])
    alike = next(dice) < ALIKE
    kinds: list[tuple[str, ...]] = []
    while len(kinds) < number:
        if kinds and alike:
            kinds.append(kinds[0])
            continue
        given = fixed if not kinds else {}
        color = given.get("color", _pick(colors_on(words["background"]), dice))
        shape = given.get("shape", _pick(FULL.shapes, dice))
        size = given.get("size", _pick(FULL.sizes, dice))
        motion = given.get("motion", _pick(motions_of(shape, words["camera"]), dice))
        if motion in ("grow", "shrink"):
            size = "small" if motion == "grow" else "large"
        if color not in colors_on(words["background"]) or motion not in motions_of(shape, words["camera"]):
            return None
        if (color, shape) in {kind[:2] for kind in kinds}:
            continue
        kinds.append((color, shape, size, motion))
    if "size" in fixed and kinds[0][2] != fixed["size"]:
        return None
    return kinds


def patterns_under(camera: str) -> tuple[str, ...]:
    """The floors over which a camera's motion shows."""
    if camera in PANS:
        return ("checkered", "dotted")
    return FULL.patterns if camera == "still" else FULL.patterns[1:]


def backgrounds_under(light: str) -> tuple[str, ...]:
    """The floors that show a light."""
    return tuple(name for name in FULL.backgrounds if name not in UNLIT[light])


def colors_on(background: str) -> tuple[str, ...]:
    """The colours of toys that stand out from a floor."""
    return tuple(color for color in FULL.colors if color not in CLASHES[background])


def motions_of(shape: str, camera: str) -> tuple[str, ...]:
    """What a toy can be seen to do."""
    if camera != "still":
        return ("still",)
    return FULL.motions if shape in SPIN else tuple(motion for motion in FULL.motions if motion != "spin")


def _place(
    kinds: Sequence[tuple[str, ...]], camera: str, way: float, seconds: float, dice: Dice
) -> tuple[Toy, ...] | None:
    """Toys that stay in the frame and apart, the largest placed first; None where one finds no room."""
    toys: dict[int, Toy] = {}
    boxes: list[Box] = []
    for index in sorted(range(len(kinds)), key=lambda i: kinds[i][2] != "large"):
        for _ in range(ATTEMPTS):
            toy = _place_one(kinds[index], camera, way, FULL.counts[len(kinds) - 1], seconds, dice)
            if toy is None:
                continue
            box = sweep(toy, seconds)
            if all(_apart(box, other) for other in boxes):
                toys[index] = toy
                boxes.append(box)
                break
        else:
            return None
    return tuple(toys[index] for index in range(len(kinds)))


def _place_one(kind: tuple[str, ...], camera: str, way: float, crowd: str, seconds: float, dice: Dice) -> Toy | None:
    """A toy somewhere in the room that its motion, or the camera's, leaves it."""
    color, shape, size, motion = kind
    radius = SIZES[size] * (1.0 + SIZE_JITTER * (2.0 * next(dice) - 1.0))
    far = _between(EXTENTS.get(motion, (0.0, 0.0)), next(dice)) * CROWDED[crowd]
    extent = angle = 0.0
    if motion in ("bounce", "orbit"):
        extent = far if motion == "bounce" or next(dice) < 0.5 else -far
        angle = 2.0 * math.pi * next(dice) if motion == "orbit" else 0.0
    elif motion in ("grow", "shrink"):
        extent = _between(GROWTH, next(dice)) ** (1.0 if motion == "grow" else -1.0)
    elif motion == "spin":
        extent = SPIN[shape]
    speed = far / seconds if motion in MOTIONS and seconds > 0 else 0.0
    at_origin = Toy(color, shape, size, motion, 0.0, 0.0, radius, speed, extent, angle)
    low, high = _room(sweep(at_origin, seconds), camera, way)
    if low[0] > high[0] or low[1] > high[1]:
        return None
    x, y = (a + (b - a) * next(dice) for a, b in zip(low, high))
    return Toy(color, shape, size, motion, x, y, radius, speed, extent, angle)


def _room(box: Box, camera: str, way: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The least and greatest place of a toy whose box about the origin is given."""
    left, top, right, bottom = box
    edge = 0.5 - MARGIN
    if camera in ZOOMS:
        edge /= way  # what is in the picture when it is closest
    dx, dy = PANS.get(camera, (0.0, 0.0))
    low = (-edge - left + max(0.0, dx * way), -edge - top + max(0.0, dy * way))
    high = (edge - right + min(0.0, dx * way), edge - bottom + min(0.0, dy * way))
    return low, high


def _apart(one: Box, other: Box) -> bool:
    return one[0] - other[2] > GAP or other[0] - one[2] > GAP or one[1] - other[3] > GAP or other[1] - one[3] > GAP


def _dice(rng: np.random.Generator) -> Dice:
    while True:
        yield from rng.random(64).tolist()


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _pick(options: Sequence[str], dice: Dice) -> str:
    return options[int(next(dice) * len(options))]
