"""What the toybox holds: words and their values, toys and scenes, what never occurs, what training never sees.

Units: lengths are fractions of the frame's shorter side, with the origin at the centre of the frame, x to the right
and y down; time is in seconds. A scene therefore looks the same at every size and frame rate.

**The withheld rule** (so that a model can be tested on compositions it never saw): a triple of toy colour, shape and
motion is kept out of training when `crc32("toybox 39 COLOR SHAPE MOTION") % 10 == 0` (`withheld_triple`); 39 is a salt
that spreads the withheld triples evenly. In the core grammar that is 10 of 90 triples, at most 2 of a colour, 4 of a
shape and 3 of a motion, so every word, and every pair of words, is frequent in training. A scene is withheld when any
of its toys is. Size and all that belongs to the scene play no part in the rule.
"""

import zlib
from dataclasses import dataclass

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
"""Radius of the toy, before a jitter of a few per cent."""
MOTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "still": (0.0, 0.0)}
"""Motions along a straight line, and their directions. The others have a shape of their own: see `motion`."""
PANS = {"pan left": (-1.0, 0.0), "pan right": (1.0, 0.0), "pan up": (0.0, -1.0), "pan down": (0.0, 1.0)}
"""Where the camera goes; what it shows goes the other way."""
ZOOMS = ("zoom in", "zoom out")
COUNTS = ("one", "two", "three")

SIZE_JITTER = 0.04
MARGIN = 0.012
"""Free space kept between a toy and the edge of the frame."""
REACH = 1.08
"""Half the side of the box around a toy's silhouette, in radii."""

SPIN = {"cube": 0.40, "star": 0.31}
"""Turns of a spinning toy in a clip: no multiple of a quarter or a fifth, so that the end shows it too."""
CLASHES = {
    "white": ("white",),
    "gray": ("white", "black"),
    "black": ("black",),
    "pink": ("white",),
    "cyan": ("teal",),
    "brown": ("black",),
}
"""For each floor the colours that a toy on it cannot have: in some light or shade they are the floor's own."""
UNLIT = {"day": (), "evening": ("black", "cyan"), "night": ("black",)}
"""For each light the floors that do not show it: black takes no colour, and cyan in warm light is green."""


@dataclass(frozen=True)
class Grammar:
    """The words that a scene is drawn from."""

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
GRAMMARS = {"core": CORE, "full": FULL}
TEXT_LENGTHS = {"core": 22, "full": 44}
"""Tokens that hold every caption of a grammar: words, points, commas and the end."""

TOY_FACTS = ("color", "shape", "size", "motion")
FACTS = {
    "core": (*TOY_FACTS, "background"),
    "full": (*TOY_FACTS, "background", "count", "pattern", "camera", "light"),
}
"""All facts of a scene, by grammar. The words of each are the field of `Grammar` that is its plural."""
Seen = dict[str, str | None]
"""Facts as pixels show them; None where one cannot be read."""


@dataclass(frozen=True)
class Toy:
    """One toy: four facts that a caption can name, and the numbers that place it.

    `x`, `y`: centre of the silhouette at time 0; `radius`: half its width then; `speed`: frame sides per second of a
    straight way. `extent` is how far the other motions go: the height of a bounce, the radius of an orbit (its sign
    is the sense), the turns of a spin, the last radius over the first of a toy that grows or shrinks. `angle`: where
    on its orbit a toy begins, in radians.
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
    def kind(self) -> tuple[str, str, str, str]:
        """Its facts, in the order of `TOY_FACTS`."""
        return self.color, self.shape, self.size, self.motion


@dataclass(frozen=True)
class Scene:
    """Toys on a floor under a camera and a lamp. What moves does so for `seconds` and then rests.

    `way`: how far a camera pans, or by what a zoom enlarges. `phase`: where the floor's pattern begins.
    """

    toys: tuple[Toy, ...]
    background: str
    seconds: float = 1.0
    grammar: str = "core"
    pattern: str = "plain"
    camera: str = "still"
    light: str = "day"
    way: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)

    @property
    def toy(self) -> Toy:
        """The first toy; in the core grammar there is no other."""
        return self.toys[0]

    @property
    def facts(self) -> dict[str, str]:
        """All that pixels show of the scene, by name: the five facts of the core grammar, or those of the full one.

        The facts of a second and third toy are named `color 2` and so on. A toy that grows or shrinks, or that is
        zoomed at, has no size.
        """
        facts = {}
        for number, toy in enumerate(self.toys, start=1):
            changing = toy.motion in ("grow", "shrink") or self.camera in ZOOMS
            for name, word in zip(TOY_FACTS, toy.kind):
                if not (name == "size" and changing):
                    facts[numbered(name, number)] = word
        facts["background"] = self.background
        if self.grammar == "core":
            return facts
        facts["count"] = COUNTS[len(self.toys) - 1]
        return facts | {"pattern": self.pattern, "camera": self.camera, "light": self.light}


def numbered(name: str, toy: int) -> str:
    """The name of a toy's fact: `color` of the first, `color 2` of the second."""
    return name if toy == 1 else f"{name} {toy}"


def withheld_triple(color: str, shape: str, motion: str) -> bool:
    """True for the compositions that training never sees (the rule is at the top of this file)."""
    return zlib.crc32(f"toybox 39 {color} {shape} {motion}".encode()) % 10 == 0


def withheld(scene: Scene) -> bool:
    """True where any toy of the scene is a withheld composition."""
    return any(withheld_triple(toy.color, toy.shape, toy.motion) for toy in scene.toys)
