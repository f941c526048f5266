"""The words of the full grammar: synonyms of each fact, and inflected forms of nouns and verbs.

The first word of each row is the canonical word and the most frequent; the others are synonyms.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

SYNONYM_PROBABILITY = 0.3

COLORS = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "royal blue"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "orange": ("orange", "tangerine"),
    "magenta": ("magenta", "fuchsia"),
    "teal": ("teal",),
    "white": ("white",),
    "black": ("black",),
}
SHAPES = {
    "ball": (("ball", "balls"), ("sphere", "spheres"), ("orb", "orbs")),
    "cube": (("cube", "cubes"), ("box", "boxes"), ("block", "blocks")),
    "cone": (("cone", "cones"),),
    "cylinder": (("cylinder", "cylinders"),),
    "star": (("star", "stars"),),
    "ring": (("ring", "rings"), ("donut", "donuts")),
}
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
BACKGROUNDS = {
    "white": ("white",),
    "gray": ("gray", "grey"),
    "black": ("black",),
    "pink": ("pink",),
    "cyan": ("cyan", "light blue", "sky blue"),
    "brown": ("brown",),
}
PATTERNS = {
    "plain": ("plain",),
    "checkered": ("checkered", "checked"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
}
FLOORS = ("floor", "floor", "background", "surface", "ground")

DIRECTIONS = {
    "left": ("left", "to the left", "leftward"),
    "right": ("right", "to the right", "rightward"),
    "up": ("up", "upward", "upwards"),
    "down": ("down", "downward", "downwards"),
}
REST = ("still", "at rest", "motionless", "in place")

Verb = tuple[str, str, str]
"""Third person singular, plural, participle."""
MOVE: tuple[Verb, ...] = (
    ("moves", "move", "moving"),
    ("moves", "move", "moving"),
    ("drifts", "drift", "drifting"),
    ("slides", "slide", "sliding"),
    ("glides", "glide", "gliding"),
    ("goes", "go", "going"),
)
STAY: tuple[Verb, ...] = (
    ("stays", "stay", "staying"),
    ("stays", "stay", "staying"),
    ("stands", "stand", "standing"),
    ("remains", "remain", "remaining"),
)
MOTION_VERBS: dict[str, tuple[Verb, ...]] = {
    "bounce": (("bounces", "bounce", "bouncing"), ("hops", "hop", "hopping"), ("jumps", "jump", "jumping")),
    "orbit": (("moves in a circle", "move in a circle", "moving in a circle"), ("circles", "circle", "circling")),
    "spin": (("spins", "spin", "spinning"), ("rotates", "rotate", "rotating")),
    "grow": (("grows", "grow", "growing"), ("gets bigger", "get bigger", "getting bigger")),
    "shrink": (("shrinks", "shrink", "shrinking"), ("gets smaller", "get smaller", "getting smaller")),
}
LIGHTS = {
    "day": ("in daylight", "in bright light"),
    "evening": ("in warm light", "in evening light", "at sunset"),
    "night": ("in dim light", "at night", "in moonlight"),
}
CAMERAS = {
    "still": ("is fixed",),
    "pan left": ("pans left", "pans to the left"),
    "pan right": ("pans right", "pans to the right"),
    "pan up": ("pans up", "pans upwards"),
    "pan down": ("pans down", "pans downwards"),
    "zoom in": ("zooms in", "moves closer"),
    "zoom out": ("zooms out", "moves away"),
}


def article(phrase: str) -> str:
    """Return the phrase with "a" or "an" in front."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """Choose one of the options uniformly at random."""
    return options[int(rng.integers(len(options)))]
