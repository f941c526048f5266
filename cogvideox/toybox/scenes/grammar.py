"""The grammars (the words of a scene), `Toy` and `Scene`, and the held-out rule.

Units: lengths are fractions of the frame's shorter side, with the origin at the center of the frame, x to the right
and y down; time is in seconds. A scene therefore looks the same at every size and frame rate.

**The held-out rule** (for tests on compositions that a model has never seen): a triple of color, shape and motion is
excluded from training when `crc32("toybox 39 COLOR SHAPE MOTION") % 10 == 0` (`is_held_out_triple`); 39 is a salt that
spreads the held-out triples evenly. In the core grammar that is 10 of 90 triples: at most 2 per color, 4 per shape and
3 per motion, so every word and every pair of words is frequent in training. A scene is held out when any of its toys
is. The size of a toy and the facts of the scene (background, light, ...) do not matter.
"""

import zlib
from dataclasses import dataclass, replace

CORE_COLORS = {
    "red": (0.90, 0.10, 0.13),
    "green": (0.13, 0.68, 0.22),
    "blue": (0.12, 0.30, 0.92),
    "yellow": (1.00, 0.86, 0.10),
    "purple": (0.58, 0.16, 0.80),
    "orange": (1.00, 0.50, 0.04),
}
TOY_COLORS = CORE_COLORS | {
    "magenta": (0.93, 0.10, 0.60),
    "teal": (0.00, 0.52, 0.52),
    "white": (0.96, 0.96, 0.95),
    "black": (0.07, 0.07, 0.08),
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
"""Radius of a toy before jitter (`SIZE_JITTER`)."""
MOTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "still": (0.0, 0.0)}
"""Straight motions and their directions. For the other motions see `render.motion`."""
PANS = {"pan left": (-1.0, 0.0), "pan right": (1.0, 0.0), "pan up": (0.0, -1.0), "pan down": (0.0, 1.0)}
"""Direction of the camera; the image moves in the opposite direction."""
ZOOMS = ("zoom in", "zoom out")
COUNTS = ("one", "two", "three")

SIZE_JITTER = 0.04
MARGIN = 0.012
"""Minimum gap between a toy and the edge of the frame."""
BOX_HALF_SIDE = 1.08
"""Half the side of a toy's bounding box, in radii."""

SPIN_TURNS = {"cube": 0.40, "star": 0.31}
"""Turns of a spinning toy per clip. They are not a multiple of its symmetry (1/4, 1/5), so that first and last frame
differ."""
CLASHING_COLORS = {
    "white": ("white",),
    "gray": ("white", "black"),
    "black": ("black",),
    "pink": ("white",),
    "cyan": ("teal",),
    "brown": ("black",),
}
"""For each background, the toy colors that are not used on it, because they equal its color in some light or shadow."""
UNLIT_BACKGROUNDS = {"day": (), "evening": ("black", "cyan"), "night": ("black",)}
"""For each light, the backgrounds on which it cannot be recognized: black has no tint, cyan is green in warm light."""


@dataclass(frozen=True)
class Grammar:
    """The words from which the facts of a scene are sampled."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]
    motions: tuple[str, ...]
    backgrounds: tuple[str, ...]
    counts: tuple[str, ...] = ("one",)
    patterns: tuple[str, ...] = ("plain",)
    cameras: tuple[str, ...] = ("still",)
    lights: tuple[str, ...] = ("day",)


CORE = Grammar(
    colors=tuple(CORE_COLORS),
    shapes=("ball", "cube", "cone"),
    sizes=tuple(SIZES),
    motions=tuple(MOTIONS),
    backgrounds=tuple(BACKGROUND_COLORS),
)
FULL = Grammar(
    colors=tuple(TOY_COLORS),
    shapes=("ball", "cube", "cone", "cylinder", "star", "ring"),
    sizes=tuple(SIZES),
    motions=(*MOTIONS, "bounce", "orbit", "spin", "grow", "shrink"),
    backgrounds=tuple(BACKGROUND_COLORS),
    counts=COUNTS,
    patterns=("plain", "checkered", "striped", "dotted"),
    cameras=("still", *PANS, *ZOOMS),
    lights=("day", "evening", "night"),
)
PAIR = replace(CORE, counts=COUNTS[:2])
GRAMMARS = {"core": CORE, "full": FULL, "pair": PAIR}
TEXT_LENGTHS = {"core": 22, "full": 44, "pair": 40}
"""Number of tokens of the longest caption of a grammar: words, periods, commas and the end token."""

TOY_FACTS = ("color", "shape", "size", "motion")
FACTS = {
    "core": (*TOY_FACTS, "background"),
    "full": (*TOY_FACTS, "background", "count", "pattern", "camera", "light"),
    "pair": (*TOY_FACTS, "background", "count"),
}
"""All facts of a scene, by grammar. The allowed words of a fact are the `Grammar` field named by its plural."""
ObservedFacts = dict[str, str | None]
"""Facts read from pixels; None where a fact cannot be read."""


@dataclass(frozen=True)
class Toy:
    """A toy: four facts that a caption can name, and the parameters of its position and motion.

    Attributes:
        x, y: center of the silhouette at time 0.
        radius: half the width of the silhouette at time 0.
        speed: speed of a straight motion, in frame sides per second.
        extent: amount of a motion that is not straight: height of a bounce, radius of an orbit (its sign is the
            direction), number of turns of a spin, ratio of last to first radius when growing or shrinking.
        angle: starting position on an orbit, in radians.
    """

    color: str
    shape: str
    size: str
    motion: str
    x: float
    y: float
    radius: float
    speed: float
    extent: float = 0.0
    angle: float = 0.0

    @property
    def facts(self) -> tuple[str, str, str, str]:
        """The toy's facts, in the order of `TOY_FACTS`."""
        return self.color, self.shape, self.size, self.motion


@dataclass(frozen=True)
class Scene:
    """Toys on a floor, a camera and a light. Toys and camera move for `seconds` and then rest.

    Attributes:
        camera_extent: distance of a pan, or magnification of a zoom.
        pattern_phase: offset of the floor pattern along x and y, in periods.
    """

    toys: tuple[Toy, ...]
    background: str
    seconds: float = 1.0
    grammar: str = "core"
    pattern: str = "plain"
    camera: str = "still"
    light: str = "day"
    camera_extent: float = 0.0
    pattern_phase: tuple[float, float] = (0.0, 0.0)

    @property
    def toy(self) -> Toy:
        """The first toy, which is the only one in the core grammar."""
        return self.toys[0]

    @property
    def facts(self) -> dict[str, str]:
        """All visible facts by name: five facts in the core grammar, more in the full grammar.

        The facts of a second and third toy are named `color 2` and so on. A toy that grows or shrinks, or any toy
        under a zooming camera, has no size.
        """
        facts = {}
        for number, toy in enumerate(self.toys, start=1):
            changes_size = toy.motion in ("grow", "shrink") or self.camera in ZOOMS
            for name, word in zip(TOY_FACTS, toy.facts):
                if not (name == "size" and changes_size):
                    facts[fact_name(name, number)] = word
        facts["background"] = self.background
        if self.grammar == "core":
            return facts
        facts["count"] = COUNTS[len(self.toys) - 1]
        return facts | {"pattern": self.pattern, "camera": self.camera, "light": self.light}


def fact_name(name: str, toy: int) -> str:
    """Return the name of a fact of toy number `toy` (1-based): `color` for the first toy, `color 2` for the second."""
    return name if toy == 1 else f"{name} {toy}"


def is_held_out_triple(color: str, shape: str, motion: str) -> bool:
    """Return whether a composition is held out from training (see the rule at the top of this file)."""
    return zlib.crc32(f"toybox 39 {color} {shape} {motion}".encode()) % 10 == 0


def is_held_out(scene: Scene) -> bool:
    """Return whether any toy of the scene is a held-out composition."""
    return any(is_held_out_triple(toy.color, toy.shape, toy.motion) for toy in scene.toys)
