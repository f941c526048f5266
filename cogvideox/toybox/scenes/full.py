"""Sampling of full-grammar scenes: compatible facts (see the table in `sampler`), then a position for every toy.

Earlier choices restrict later ones: the camera restricts patterns and motions, the light restricts backgrounds, the
background restricts colors, and the shape restricts motions. If the toys do not fit, they are sampled again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cogvideox.toybox.render.motion import Box, swept_box
from cogvideox.toybox.scenes.grammar import (
    CLASHING_COLORS,
    FULL,
    MARGIN,
    MOTIONS,
    PANS,
    SIZE_JITTER,
    SIZES,
    SPIN_TURNS,
    UNLIT_BACKGROUNDS,
    ZOOMS,
    Scene,
    Toy,
)

# The camera is mostly still and the light mostly daylight, because the main subjects are the toys and their motions.
COUNT_PROBABILITIES = {"one": 0.40, "two": 0.35, "three": 0.25}
STILL_CAMERA_PROBABILITY = 0.65
DAYLIGHT_PROBABILITY = 0.5
PLAIN_PATTERN_PROBABILITY = 0.25
IDENTICAL_TOYS_PROBABILITY = 0.25
MIN_GAP = 0.045
"""Minimum distance between the bounding boxes of two toys over the whole clip."""
EXTENT_SCALE = {"one": 1.0, "two": 0.82, "three": 0.68}
"""Scale of a motion's extent for the number of toys in the scene."""
EXTENT_RANGES = {
    "left": (0.33, 0.42),
    "right": (0.33, 0.42),
    "up": (0.33, 0.42),
    "down": (0.33, 0.42),
    "bounce": (0.19, 0.24),
    "orbit": (0.14, 0.17),
    "pan": (0.28, 0.34),
}
GROWTH_RANGE = (1.6, 1.72)
ZOOM_RANGE = (1.36, 1.44)
SCENE_ATTEMPTS, TOY_ATTEMPTS = 20, 16
"""Maximum number of attempts to sample a set of toys, and to place one toy."""

Uniform = Iterator[float]
"""Random numbers in [0, 1)."""
ToyFacts = tuple[str, ...]
"""Color, shape, size and motion."""


def sample_full_scene(rng: np.random.Generator, seconds: float, fixed: Mapping[str, str]) -> Scene | None:
    """Sample a scene of the full grammar; None if `fixed` conflicts with sampled facts or the toys do not fit."""
    uniform = uniform_numbers(rng)
    scene = _sample_scene_facts(uniform, fixed)
    if scene is None:
        return None
    camera_extent = 0.0
    if scene["camera"] in PANS:
        camera_extent = _lerp(EXTENT_RANGES["pan"], next(uniform)) * EXTENT_SCALE[scene["count"]]
    elif scene["camera"] in ZOOMS:
        camera_extent = _lerp(ZOOM_RANGE, next(uniform))
    for _ in range(SCENE_ATTEMPTS):
        facts = _sample_toy_facts(uniform, scene, fixed)
        if facts is None:
            return None
        toys = place_toys(facts, scene["camera"], camera_extent, seconds, uniform)
        if toys is not None:
            return Scene(
                toys=toys,
                background=scene["background"],
                seconds=seconds,
                grammar="full",
                pattern=scene["pattern"],
                camera=scene["camera"],
                light=scene["light"],
                camera_extent=camera_extent if seconds > 0 else 0.0,
                pattern_phase=(next(uniform), next(uniform)),
            )
    return None


def _sample_scene_facts(uniform: Uniform, fixed: Mapping[str, str]) -> dict[str, str] | None:
    camera = "still" if next(uniform) < STILL_CAMERA_PROBABILITY else _pick(FULL.cameras[1:], uniform)
    camera = fixed.get("camera", camera)
    patterns = patterns_for(camera)
    plain = next(uniform) < PLAIN_PATTERN_PROBABILITY and "plain" in patterns
    pattern = "plain" if plain else _pick(patterns, uniform)
    pattern = fixed.get("pattern", pattern)
    light = "day" if next(uniform) < DAYLIGHT_PROBABILITY else _pick(FULL.lights[1:], uniform)
    light = fixed.get("light", light)
    background = fixed.get("background", _pick(backgrounds_for(light), uniform))
    u, p = next(uniform), COUNT_PROBABILITIES
    count = "one" if u < p["one"] else "two" if u < p["one"] + p["two"] else "three"
    count = fixed.get("count", count)
    if pattern not in patterns or background not in backgrounds_for(light):
        return None
    return {"camera": camera, "pattern": pattern, "light": light, "background": background, "count": count}


def _sample_toy_facts(uniform: Uniform, scene: Mapping[str, str], fixed: Mapping[str, str]) -> list[ToyFacts] | None:
    """Sample color, shape, size and motion of every toy; None if `fixed` conflicts with them."""
    count = 1 + FULL.counts.index(scene["count"])
    identical = next(uniform) < IDENTICAL_TOYS_PROBABILITY
    toys: list[ToyFacts] = []
    while len(toys) < count:
        if toys and identical:
            toys.append(toys[0])
            continue
        fixed_here = {} if toys else fixed  # `fixed` applies to the first toy
        color = fixed_here.get("color", _pick(colors_for(scene["background"]), uniform))
        shape = fixed_here.get("shape", _pick(FULL.shapes, uniform))
        size = fixed_here.get("size", _pick(FULL.sizes, uniform))
        motion = fixed_here.get("motion", _pick(motions_for(shape, scene["camera"]), uniform))
        if motion in ("grow", "shrink"):
            size = "small" if motion == "grow" else "large"
        if color not in colors_for(scene["background"]) or motion not in motions_for(shape, scene["camera"]):
            return None
        if (color, shape) in {facts[:2] for facts in toys}:
            continue
        toys.append((color, shape, size, motion))
    if "size" in fixed and toys[0][2] != fixed["size"]:
        return None
    return toys


def patterns_for(camera: str) -> tuple[str, ...]:
    """Return the floor patterns that make a camera motion visible."""
    if camera in PANS:
        return ("checkered", "dotted")
    return FULL.patterns if camera == "still" else FULL.patterns[1:]


def backgrounds_for(light: str) -> tuple[str, ...]:
    """Return the backgrounds on which a light is visible."""
    return tuple(name for name in FULL.backgrounds if name not in UNLIT_BACKGROUNDS[light])


def colors_for(background: str) -> tuple[str, ...]:
    """Return the toy colors that can be distinguished from a background."""
    return tuple(color for color in FULL.colors if color not in CLASHING_COLORS[background])


def motions_for(shape: str, camera: str) -> tuple[str, ...]:
    """Return the motions that are visible for a shape and a camera motion."""
    if camera != "still":
        return ("still",)
    return FULL.motions if shape in SPIN_TURNS else tuple(motion for motion in FULL.motions if motion != "spin")


def place_toys(
    facts: Sequence[ToyFacts], camera: str, camera_extent: float, seconds: float, uniform: Uniform
) -> tuple[Toy, ...] | None:
    """Place toys inside the frame without contact, large toys first; None if a toy does not fit."""
    toys: dict[int, Toy] = {}
    boxes: list[Box] = []
    for index in sorted(range(len(facts)), key=lambda i: facts[i][2] != "large"):
        for _ in range(TOY_ATTEMPTS):
            toy = _place_toy(facts[index], camera, camera_extent, FULL.counts[len(facts) - 1], seconds, uniform)
            if toy is None:
                continue
            box = swept_box(toy, seconds)
            if all(_apart(box, other) for other in boxes):
                toys[index] = toy
                boxes.append(box)
                break
        else:
            return None
    return tuple(toys[index] for index in range(len(facts)))


def _place_toy(
    facts: ToyFacts, camera: str, camera_extent: float, count: str, seconds: float, uniform: Uniform
) -> Toy | None:
    """Place a toy at random within the limits of its own and the camera's motion; None if it does not fit."""
    color, shape, size, motion = facts
    radius = SIZES[size] * (1.0 + SIZE_JITTER * (2.0 * next(uniform) - 1.0))
    distance = _lerp(EXTENT_RANGES.get(motion, (0.0, 0.0)), next(uniform)) * EXTENT_SCALE[count]
    extent = angle = 0.0
    if motion in ("bounce", "orbit"):
        extent = distance if motion == "bounce" or next(uniform) < 0.5 else -distance
        angle = 2.0 * math.pi * next(uniform) if motion == "orbit" else 0.0
    elif motion in ("grow", "shrink"):
        extent = _lerp(GROWTH_RANGE, next(uniform)) ** (1.0 if motion == "grow" else -1.0)
    elif motion == "spin":
        extent = SPIN_TURNS[shape]
    speed = distance / seconds if motion in MOTIONS and seconds > 0 else 0.0
    at_origin = Toy(color, shape, size, motion, 0.0, 0.0, radius, speed, extent, angle)
    low, high = _position_limits(swept_box(at_origin, seconds), camera, camera_extent)
    if low[0] > high[0] or low[1] > high[1]:
        return None
    x, y = (a + (b - a) * next(uniform) for a, b in zip(low, high))
    return Toy(color, shape, size, motion, x, y, radius, speed, extent, angle)


def _position_limits(box: Box, camera: str, camera_extent: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the minimum and maximum (x, y) of a toy whose bounding box at the origin is `box`."""
    left, top, right, bottom = box
    edge = 0.5 - MARGIN
    if camera in ZOOMS:
        edge /= camera_extent  # the edge of the frame at the highest magnification
    dx, dy = PANS.get(camera, (0.0, 0.0))
    low = (-edge - left + max(0.0, dx * camera_extent), -edge - top + max(0.0, dy * camera_extent))
    high = (edge - right + min(0.0, dx * camera_extent), edge - bottom + min(0.0, dy * camera_extent))
    return low, high


def _apart(a: Box, b: Box) -> bool:
    return any(gap > MIN_GAP for gap in (a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]))


def uniform_numbers(rng: np.random.Generator) -> Uniform:
    """Yield random numbers in [0, 1)."""
    while True:
        yield from rng.random(64).tolist()


def _lerp(bounds: tuple[float, float], u: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _pick(options: Sequence[str], uniform: Uniform) -> str:
    return options[int(next(uniform) * len(options))]
