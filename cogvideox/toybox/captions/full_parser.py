"""Parser of free-form prompts into the facts of the full grammar.

A prompt is read from left to right, and the longest phrase matches. Adjectives apply to the next noun: "white" is the
color of a toy before "ball" and of the floor before "floor". A motion applies to all toys named since the last motion,
so that both toys of "a ball and a cube stay still" are at rest. "the red ball" refers to a toy named earlier, if there
is one. Unknown words are ignored, and so are positions ("on the left"), which no caption names. Colors that toys or
floors never have are returned, too, and no video matches them.
"""

import re
from collections.abc import Iterable

from cogvideox.toybox.captions import vocabulary
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, fact_name

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
TYPED_PHRASES = {
    "size": {"small": ("smaller", "miniature"), "large": ("larger", "bigger", "huge")},
    "shape": {"ring": ("torus", "doughnut", "doughnuts"), "ball": ("marble",)},
    "pattern": {
        "checkered": ("chequered", "checkerboard", "chessboard"),
        "striped": ("stripy", "with stripes"),
        "dotted": ("polka dot", "with dots", "with spots"),
    },
    "motion": {
        "left": ("towards the left", "from right to left", "leftwards", "towards left", "from the right"),
        "right": ("towards the right", "from left to right", "rightwards", "towards right", "from the left"),
        "up": ("towards the top", "from bottom to top", "rises", "rise", "rising"),
        "down": (
            *("towards the bottom", "from top to bottom", "descends", "descending", "falls", "falling"),
            *("sinks", "sinking"),
        ),
        "still": ("not moving", "does not move", "do not move", "stationary", "resting", "rests", "rest", "unmoving"),
        "bounce": ("bounces up and down", "bouncing up and down", "hops up and down", "jumps up and down"),
        "orbit": ("goes in a circle", "moves in circles", "moving in circles", "orbits", "orbit", "orbiting"),
        "spin": ("spins in place", "spinning in place", "turns around", "turning around", "rotates in place"),
        "grow": ("gets larger", "getting larger", "expands", "expanding", "becomes bigger", "becomes larger"),
        "shrink": ("becomes smaller", "becoming smaller", "gets tiny"),
    },
    "light": {
        "day": ("daytime", "by day", "at noon"),
        "evening": ("warm evening light", "golden light", "in the evening", "sunset", "dusk"),
        "night": ("by night", "in the dark", "moonlit", "nighttime"),
    },
    "camera": {
        "still": (
            *("fixed camera", "static camera", "still camera", "steady camera"),
            *(
                "camera stays still",
                "camera is still",
                "camera is static",
                "camera does not move",
                "camera rests",
                "camera stays fixed",
            ),
        ),
        "zoom in": ("zoom in", "zooming in"),
        "zoom out": ("zoom out", "zooming out"),
        "pan left": ("pan left", "pan to the left", "panning left"),
        "pan right": ("pan right", "pan to the right", "panning right"),
        "pan up": ("pan up", "panning up"),
        "pan down": ("pan down", "panning down"),
    },
}


def parse_full_prompt(prompt: str) -> dict[str, str]:
    """Return the facts that a prompt names, keyed as in `Scene.facts`.

    `count` is present if every toy has a number or an article. More than three toys are "four" and so on, which no
    scene shows. If a prompt has two words for the same fact, the first counts.
    """
    parser = _Parser()
    for match in _PATTERN.finditer(" ".join(re.findall(r"[a-z]+", prompt.lower()))):
        for name, value in _PHRASES[match.group()]:
            parser.feed(name, value)
    return parser.facts()


class _Parser:
    """Parser state: assigns the phrases of a prompt to the toys and the scene, one by one."""

    def __init__(self) -> None:
        self.scene: dict[str, str] = {}
        self.toys: list[dict[str, str]] = []
        self.adjectives: dict[str, str] = {}  # for the next noun
        self.subjects: list[dict[str, str]] = []  # toys named since the last motion
        self.leading_motion: str | None = None  # a motion before the first toy
        self.number: int | None = None
        self.definite = False  # after "the"
        self.refers_back = False  # the subjects are toys named earlier
        self.counted = True  # every toy so far has a number or an article

    def feed(self, name: str, value: str) -> None:
        if name == "article":
            self.adjectives, self.definite, self.number = {}, value == "the", NUMBERS.get(value)
        elif name == "hue" or name == "size":
            self.adjectives.setdefault(name, value)
        elif name == "shape":
            self._toy(value)
        elif name == "floor":
            self._floor(self.adjectives.get("hue"))
        elif name == "motion":
            self._motion(value)
        elif name != "place":
            self.scene.setdefault(name, value)

    def facts(self) -> dict[str, str]:
        if self.adjectives.get("hue") in BACKGROUND_COLORS:  # "a red ball on white"
            self._floor(self.adjectives["hue"])
        facts = {fact_name(name, i): value for i, toy in enumerate(self.toys, start=1) for name, value in toy.items()}
        if self.toys and self.counted:
            facts["count"] = {number: word for word, number in NUMBERS.items()}[len(self.toys)]
        return facts | self.scene

    def _toy(self, shape: str) -> None:
        color = self.adjectives.get("hue")
        toys = [
            toy for toy in self.toys if self.definite and toy["shape"] == shape and color in (None, toy.get("color"))
        ]
        if not toys:
            toy = {} if color is None else {"color": color}
            toy["shape"] = shape
            if "size" in self.adjectives:
                toy["size"] = self.adjectives["size"]
            # The count of a plural without a number is unknown.
            self.counted = self.counted and (self.number is not None or self.definite)
            toys = [dict(toy) for _ in range(min(self.number or 1, max(NUMBERS.values()) - len(self.toys)))]
            self.toys += toys
            self.refers_back = False
        elif not self.refers_back:
            self.subjects, self.refers_back = [], True
        if self.leading_motion is not None:
            for toy in toys:
                toy["motion"] = self.leading_motion
            self.leading_motion = None
        else:
            self.subjects += toys
        self.adjectives, self.number, self.definite = {}, None, False

    def _floor(self, hue: str | None) -> None:
        if hue is not None:
            self.scene.setdefault("background", hue)
        self.adjectives, self.number, self.definite = {}, None, False

    def _motion(self, motion: str) -> None:
        for toy in self.subjects:
            toy.setdefault("motion", motion)
        if not self.toys:
            self.leading_motion = motion
        self.subjects, self.refers_back = [], False


def _rows() -> Iterable[tuple[str, str, str]]:
    """Yield every known phrase with the name and value of the fact it states."""
    tables = {
        "hue": vocabulary.COLORS,
        "size": vocabulary.SIZES,
        "pattern": vocabulary.PATTERNS,
        "motion": vocabulary.DIRECTIONS,
    }
    for name, table in tables.items():
        yield from ((phrase, name, value) for value, phrases in table.items() for phrase in phrases)
    for name, values in TYPED_PHRASES.items():
        yield from ((phrase, name, value) for value, phrases in values.items() for phrase in phrases)
    yield from ((phrase, "hue", value) for value, phrases in vocabulary.BACKGROUNDS.items() for phrase in phrases)
    for table, name in ((vocabulary.SHAPES, "shape"), (vocabulary.MOTION_VERBS, "motion")):
        yield from ((phrase, name, value) for value, rows in table.items() for row in rows for phrase in row)
    yield from ((phrase, "motion", "still") for phrase in vocabulary.REST)
    yield from (
        (phrase.removeprefix("in "), "light", value) for value, row in vocabulary.LIGHTS.items() for phrase in row
    )
    for value, phrases in vocabulary.CAMERAS.items():
        for phrase in phrases:
            yield f"camera {phrase}", "camera", value
            yield f"camera is {phrase}", "camera", value
    for direction, phrases in vocabulary.DIRECTIONS.items():
        for phrase in phrases:
            yield from (
                (f"camera {verb} {phrase}", "camera", f"pan {direction}") for verb in ("moves", "slides", "pans")
            )
    for side in ("left", "right"):
        for place in (*(f"{at} the {side}" for at in ("on", "at", "in")), f"{side} of", f"to the {side} of"):
            yield place, "place", side
    yield from ((word, "article", word) for word in ("the", *NUMBERS))
    yield from ((word, "floor", word) for word in (*vocabulary.FLOORS, "backdrop", "table", "carpet"))


def _phrases() -> dict[str, list[tuple[str, str]]]:
    phrases: dict[str, list[tuple[str, str]]] = {}
    for phrase, name, value in _rows():
        if (name, value) not in phrases.setdefault(phrase, []):
            phrases[phrase].append((name, value))
    return phrases


_PHRASES = _phrases()
_PATTERN = re.compile(r"\b(?:" + "|".join(sorted(_PHRASES, key=len, reverse=True)) + r")\b")
