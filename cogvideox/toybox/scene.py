"""The grammar of the toybox: what a scene can hold, how one is drawn by seed, and what training never sees.

Units: lengths are fractions of the frame's shorter side, with the origin at the centre of the frame, x to the right
and y down; time is in seconds. A scene therefore looks the same at every size and frame rate.

**The withheld rule** (so that a model can be tested on compositions it never saw): a triple of toy colour, shape and
motion is kept out of training when `crc32("toybox 39 COLOR SHAPE MOTION") % 10 == 0` (`withheld_triple`); 39 is a salt
that spreads the withheld triples evenly. In the core grammar that is 10 of 90 triples, at most 2 of a colour, 4 of a
shape and 3 of a motion, so every word, and every pair of words, is frequent in training. Size and background play
no part in the rule.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cogvideox.errors import UserError

TOY_COLORS = {
    "red": (0.90, 0.10, 0.13),
    "green": (0.13, 0.68, 0.22),
    "blue": (0.12, 0.30, 0.92),
    "yellow": (1.00, 0.86, 0.10),
    "purple": (0.58, 0.16, 0.80),
    "orange": (1.00, 0.50, 0.04),
}
BACKGROUND_COLORS = {
    "white": (0.93, 0.93, 0.92),
    "gray": (0.52, 0.53, 0.54),
    "black": (0.08, 0.08, 0.09),
    "pink": (0.98, 0.72, 0.80),
    "cyan": (0.56, 0.87, 0.92),
    "brown": (0.43, 0.30, 0.21),
}
SIZES = {"small": 0.112, "large": 0.200}
"""Radius of the toy, before a jitter of a few per cent."""
MOTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "still": (0.0, 0.0)}

SIZE_JITTER = 0.04
TRAVEL = (0.33, 0.42)
"""Shortest and longest way of a moving toy, over the whole of `Scene.seconds`."""
MARGIN = 0.012
"""Free space kept between the toy and the edge of the frame."""
REACH = 1.08
"""Half the side of the box around a toy's silhouette, in radii."""


@dataclass(frozen=True)
class Grammar:
    """The words that a scene is drawn from."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]
    motions: tuple[str, ...]
    backgrounds: tuple[str, ...]


CORE = Grammar(
    colors=tuple(TOY_COLORS),
    shapes=("ball", "cube", "cone"),
    sizes=tuple(SIZES),
    motions=tuple(MOTIONS),
    backgrounds=tuple(BACKGROUND_COLORS),
)
GRAMMARS = {"core": CORE}


@dataclass(frozen=True)
class Toy:
    """One toy: four facts that a caption can name, and the numbers that place it.

    `x`, `y`: centre of the silhouette at time 0; `radius`: half its width; `speed`: frame sides per second.
    """

    color: str
    shape: str
    size: str
    motion: str
    x: float
    y: float
    radius: float
    speed: float


@dataclass(frozen=True)
class Scene:
    """Toys on a plain floor under a fixed camera. A moving toy glides for `seconds` and then rests."""

    toys: tuple[Toy, ...]
    background: str
    seconds: float = 1.0

    @property
    def toy(self) -> Toy:
        """The toy that the facts are about."""
        return self.toys[0]

    @property
    def facts(self) -> dict[str, str]:
        """The five facts of the core grammar, by name."""
        toy = self.toy
        return {
            "color": toy.color,
            "shape": toy.shape,
            "size": toy.size,
            "motion": toy.motion,
            "background": self.background,
        }


def draw(
    seed: int | np.random.Generator,
    grammar: str = "core",
    *,
    side: Literal["all", "training", "withheld"] = "all",
    seconds: float = 1.0,
    **fixed: str,
) -> Scene:
    """Draws one scene; the same seed gives the same scene.

    `side` keeps to one side of the withheld rule. `seconds` is how long a toy moves: the length of the clip,
    (num_frames - 1) / fps, 0 for a single frame. `fixed` sets facts by name (`color`, `shape`, `size`, `motion`,
    `background`) and leaves the rest to chance. Raises UserError for an unknown grammar or a word that it lacks, and
    where `fixed` leaves nothing on `side`.
    """
    if grammar not in GRAMMARS:
        raise UserError(f"there is no grammar {grammar!r} of scenes; there is {', '.join(GRAMMARS)}")
    words = GRAMMARS[grammar]
    rng = np.random.default_rng(seed)
    choices = {
        "color": words.colors,
        "shape": words.shapes,
        "size": words.sizes,
        "motion": words.motions,
        "background": words.backgrounds,
    }
    for name, word in fixed.items():
        if name not in choices or word not in choices[name]:
            rule = f"its words are {', '.join(choices[name])}" if name in choices else f"facts are {', '.join(choices)}"
            raise UserError(f"the {grammar} grammar has no {name} {word!r}; {rule}")
    for _ in range(10_000):
        # One number is drawn per fact even where it is fixed, so that fixing one leaves the others as they were.
        facts = {name: options[int(rng.integers(len(options)))] for name, options in choices.items()} | fixed
        scene = _place(facts, rng, seconds)
        if side == "all" or withheld(scene) == (side == "withheld"):
            return scene
    raise UserError(f"no {side} scene has {fixed}: they are on the other side of the withheld rule")


def _place(facts: dict[str, str], rng: np.random.Generator, seconds: float) -> Scene:
    """Puts a toy where it stays inside the frame all the time."""
    jitter, way, along, across = rng.random(4)
    radius = SIZES[facts["size"]] * (1.0 + SIZE_JITTER * (2.0 * jitter - 1.0))
    room = 0.5 - MARGIN - REACH * radius  # the centre stays within [-room, room]
    travel = min(TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * way, 2.0 * room)
    dx, dy = MOTIONS[facts["motion"]]
    moving = dx != 0.0 or dy != 0.0
    middle = (2.0 * along - 1.0) * (room - travel / 2.0 if moving else room * 0.75)
    side = (2.0 * across - 1.0) * room * 0.75
    if dy != 0.0:
        x, y = side, middle - dy * travel / 2.0
    else:
        x, y = middle - dx * travel / 2.0, side
    toy = Toy(
        color=facts["color"],
        shape=facts["shape"],
        size=facts["size"],
        motion=facts["motion"],
        x=float(x),
        y=float(y),
        radius=float(radius),
        speed=float(travel / seconds) if moving and seconds > 0 else 0.0,
    )
    return Scene(toys=(toy,), background=facts["background"], seconds=seconds)


def withheld_triple(color: str, shape: str, motion: str) -> bool:
    """True for the compositions that training never sees (the rule is at the top of this file)."""
    return zlib.crc32(f"toybox 39 {color} {shape} {motion}".encode()) % 10 == 0


def withheld(scene: Scene) -> bool:
    """True where any toy of the scene is a withheld composition."""
    return any(withheld_triple(toy.color, toy.shape, toy.motion) for toy in scene.toys)
