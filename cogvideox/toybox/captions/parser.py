"""What a prompt asks for, by the full grammar, whoever wrote it.

A prompt is read from left to right, longest phrases first. Words that describe wait for the noun that they belong to:
"white" is a toy's colour before "ball" and a floor's before "floor". What is done belongs to all toys named since the
last deed, so that "a ball and a cube stay still" says it of both. "the red ball" is one that was named before, if
there was one. Words outside the toybox are passed over,
and so is where a toy stands ("on the left"): no caption says it, and it is no motion. A colour that toys, or floors,
never have is named all the same, as no video can be right about it.
"""

import re
from collections.abc import Iterable

from cogvideox.toybox.captions import vocabulary
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, numbered

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
TYPED = {
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


def understand(prompt: str) -> dict[str, str]:
    """The facts that a prompt names, by the names that `Scene.facts` gives them.

    `count` is named where every toy has a number or an article; more than three are "four" and so on, which no scene
    shows. Of two words for one fact the first counts.
    """
    reader = _Reader()
    for found in _PATTERN.finditer(" ".join(re.findall(r"[a-z]+", prompt.lower()))):
        for name, value in _PHRASES[found.group()]:
            reader.take(name, value)
    return reader.facts()


class _Reader:
    """Puts the words of a prompt where they belong, one after the other."""

    def __init__(self) -> None:
        self.scene: dict[str, str] = {}
        self.toys: list[dict[str, str]] = []
        self.waiting: dict[str, str] = {}  # words for the next noun
        self.subjects: list[dict[str, str]] = []  # toys named since the last deed
        self.deed: str | None = None  # said before any toy was
        self.number: int | None = None
        self.definite = False
        self.pointing = False  # the subjects are toys named before
        self.counted = True

    def take(self, name: str, value: str) -> None:
        if name == "article":
            self.waiting, self.definite, self.number = {}, value == "the", NUMBERS.get(value)
        elif name == "hue" or name == "size":
            self.waiting.setdefault(name, value)
        elif name == "shape":
            self._toy(value)
        elif name == "floor":
            self._floor(self.waiting.get("hue"))
        elif name == "motion":
            self._motion(value)
        elif name != "place":
            self.scene.setdefault(name, value)

    def facts(self) -> dict[str, str]:
        if self.waiting.get("hue") in BACKGROUND_COLORS:  # "a red ball on white"
            self._floor(self.waiting["hue"])
        facts = {numbered(name, i): value for i, toy in enumerate(self.toys, start=1) for name, value in toy.items()}
        if self.toys and self.counted:
            facts["count"] = {number: word for word, number in NUMBERS.items()}[len(self.toys)]
        return facts | self.scene

    def _toy(self, shape: str) -> None:
        color = self.waiting.get("hue")
        named = [
            toy for toy in self.toys if self.definite and toy["shape"] == shape and color in (None, toy.get("color"))
        ]
        if not named:
            toy = {} if color is None else {"color": color}
            toy["shape"] = shape
            if "size" in self.waiting:
                toy["size"] = self.waiting["size"]
            # A plural without a number is at least two of them; how many is not said.
            self.counted = self.counted and (self.number is not None or self.definite)
            named = [dict(toy) for _ in range(min(self.number or 1, max(NUMBERS.values()) - len(self.toys)))]
            self.toys += named
            self.pointing = False
        elif not self.pointing:
            self.subjects, self.pointing = [], True
        if self.deed is not None:
            for toy in named:
                toy["motion"] = self.deed
            self.deed = None
        else:
            self.subjects += named
        self.waiting, self.number, self.definite = {}, None, False

    def _floor(self, hue: str | None) -> None:
        if hue is not None:
            self.scene.setdefault("background", hue)
        self.waiting, self.number, self.definite = {}, None, False

    def _motion(self, motion: str) -> None:
        waiting = [toy for toy in self.subjects if "motion" not in toy]
        for toy in waiting:
            toy["motion"] = motion
        if not self.toys:
            self.deed = motion
        self.subjects, self.pointing = [], False


def _rows() -> Iterable[tuple[str, str, str]]:
    """Every phrase that means something, with the fact it is about and its value."""
    tables = {
        "hue": vocabulary.COLORS,
        "size": vocabulary.SIZES,
        "pattern": vocabulary.PATTERNS,
        "motion": vocabulary.WAYS,
    }
    for name, table in tables.items():
        yield from ((phrase, name, value) for value, phrases in table.items() for phrase in phrases)
    for name, values in TYPED.items():
        yield from ((phrase, name, value) for value, phrases in values.items() for phrase in phrases)
    yield from ((phrase, "hue", value) for value, phrases in vocabulary.BACKGROUNDS.items() for phrase in phrases)
    for table, name in ((vocabulary.SHAPES, "shape"), (vocabulary.DEEDS, "motion")):
        yield from ((phrase, name, value) for value, rows in table.items() for row in rows for phrase in row)
    yield from ((phrase, "motion", "still") for phrase in vocabulary.REST)
    yield from (
        (phrase.removeprefix("in "), "light", value) for value, row in vocabulary.LIGHTS.items() for phrase in row
    )
    for value, phrases in vocabulary.CAMERAS.items():
        for phrase in phrases:
            yield f"camera {phrase}", "camera", value
            yield f"camera is {phrase}", "camera", value
    for way, phrases in vocabulary.WAYS.items():
        for phrase in phrases:
            yield from ((f"camera {verb} {phrase}", "camera", f"pan {way}") for verb in ("moves", "slides", "pans"))
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
