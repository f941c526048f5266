"""What can truthfully be said about a scene: captions in three styles, evaluation prompts, and their reading back.

Every caption is plain lower-case English of at most `MAX_WORDS` words; in the full grammar (`describe`) of at most
`FULL_MAX_WORDS`. The styles differ in what they may leave out:
`short` names colour, shape and mostly the motion, sometimes the size; `plain` mostly names all five facts in one
sentence; `dense` names all of them in two. A caption may be silent about a fact, but never wrong.
"""

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from cogvideox.errors import UserError
from cogvideox.toybox.captions.describe import CHANCE_OF_A_SYNONYM, FULL_WORDS, article, describe, pick
from cogvideox.toybox.captions.parser import understand
from cogvideox.toybox.captions.vocabulary import BACKGROUNDS, COLORS, SHAPES, SIZES
from cogvideox.toybox.scenes.grammar import CORE, CORE_COLORS, GRAMMARS, Scene
from cogvideox.toybox.scenes.sample_core import draw

MAX_WORDS = 19

# The first word of each row is the fact's own name and is used most; the others are true of the same pixels. Colours,
# sizes and floors are called what the full grammar calls them, where a new name would change these frozen captions too.
SYNONYMS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "color": {color: COLORS[color] for color in CORE_COLORS},
    "shape": {shape: tuple(one for one, _ in SHAPES[shape]) for shape in CORE.shapes},
    "size": SIZES,
    "background": BACKGROUNDS,
    "motion": {
        "left": ("left", "to the left", "towards the left", "leftward", "from right to left"),
        "right": ("right", "to the right", "towards the right", "rightward", "from left to right"),
        "up": ("up", "upward", "upwards", "towards the top"),
        "down": ("down", "downward", "downwards", "towards the bottom"),
        "still": ("still", "at rest", "motionless", "in place"),
    },
}
MOVES = ("moves", "moves", "drifts", "slides", "glides", "goes", "travels")
MOVING = ("moving", "moving", "drifting", "sliding", "gliding", "going", "travelling")
RESTS = ("stays", "stays", "stands", "remains")
RESTING = ("staying", "standing", "sitting", "remaining")
STEADILY = ("", "", "steadily ", "smoothly ", "slowly ")
FLOORS = ("background", "background", "floor", "surface", "ground")

# {toy} and {ground} carry their article; {place} is the ground, sometimes called plain. What a moving toy does is
# {moves} or {moving}; a toy at rest fills the same slots: "moves left" or "stays in place".
TEMPLATES = {
    "short": ("{toy} {moving}", "{toy} {moving}", "{toy} {moves}"),
    "plain": (
        "{toy} {moves} on {place}",
        "{toy} {moving} on {place}",
        "{toy} {moves} on {ground}",
        "on {ground}, {toy} {moves}",
        "on {ground}, {toy} {moving}",
    ),
    "dense": (
        "{toy} on {place}. it {steadily}{moves}.",
        "{place}. {toy} {steadily}{moves}.",
        "{toy} {moves} on {ground}. the camera is fixed.",
        "a video of {toy} on {ground}. it {moves}.",
    ),
}
IMAGE_TEMPLATES = {
    "short": ("{toy}", "{toy} on {ground}"),
    "plain": ("{toy} on {ground}", "{toy} on {place}", "there is {toy} on {ground}"),
    "dense": ("a picture of {toy} on {ground}.", "{place}. there is {toy} on it."),
}
STYLES = tuple(TEMPLATES)


def caption(
    scene: Scene,
    style: str = "plain",
    seed: int | np.random.Generator = 0,
    *,
    image: bool = False,
    complete: bool = False,
) -> str:
    """Says something true about a scene; the same seed says the same.

    `image`: for a single frame, which shows no motion. `complete`: leave no fact out that the style can hold (`plain`
    and `dense` then name all five, or four for an image). Raises UserError for an unknown style.
    """
    if style not in TEMPLATES:
        raise UserError(f"there is no caption style {style!r}: the styles are {', '.join(STYLES)}")
    rng = np.random.default_rng(seed)
    if scene.grammar == "full":
        return describe(scene, style, rng, image=image, complete=complete)
    facts = scene.facts
    silent = _silent(style, rng) if not complete else set()
    word = {name: _word(name, value, rng) for name, value in facts.items()}
    toy = f"{word['color']} {word['shape']}"
    if "size" not in silent:
        toy = f"{word['size']} {toy}"
    toy = article(toy)
    floor = pick(FLOORS, rng)
    ground = article(f"{word['background']} {floor}")
    place = article(f"plain {word['background']} {floor}") if rng.random() < 0.4 else ground
    steadily = pick(STEADILY, rng)
    template = pick((IMAGE_TEMPLATES if image else TEMPLATES)[style], rng)
    if style == "plain" and "background" in silent:
        template = "{toy}" if image else "{toy} {moves}"
    if style == "short" and "motion" in silent and not image:
        template = "{toy} on {ground}"
    if facts["motion"] == "still":
        steadily = ""
        moves, moving = f"{pick(RESTS, rng)} {word['motion']}", f"{pick(RESTING, rng)} {word['motion']}"
    else:
        verb = int(rng.integers(len(MOVES)))
        moves, moving = f"{MOVES[verb]} {word['motion']}", f"{MOVING[verb]} {word['motion']}"
    return template.format(toy=toy, ground=ground, place=place, steadily=steadily, moves=moves, moving=moving)


def sample_prompts(
    count: int,
    seed: int = 0,
    *,
    side: Literal["all", "training", "withheld"] = "withheld",
    style: str = "plain",
    grammar: str = "core",
) -> list[tuple[str, Scene]]:
    """Evaluation prompts that name every fact, each with a scene that answers it."""
    rng = np.random.default_rng(seed)
    scenes = [draw(rng, grammar, side=side) for _ in range(count)]
    return [(caption(scene, style, rng, complete=True), scene) for scene in scenes]


def parse(prompt: str, grammar: str = "core") -> dict[str, str]:
    """The facts that a prompt names, whoever wrote it: a part of `color`, `shape`, `size`, `motion`, `background`.

    The longest phrase counts ("light blue" is a background, "from left to right" is one motion), and of two words for
    one fact the first does. Words outside the toybox are passed over. By the full grammar a prompt may name several
    toys, and more about the scene: see `understand`.
    """
    if grammar == "full":
        return understand(prompt)
    facts: dict[str, str] = {}
    text = " ".join(re.findall(r"[a-z]+", prompt.lower()))
    for found in _PHRASE_PATTERN.finditer(text):
        name, value = _PHRASES[found.group()]
        facts.setdefault(name, value)
    return facts


def _silent(style: str, rng: np.random.Generator) -> set[str]:
    """The facts that this caption leaves out."""
    chance = rng.random()
    if style == "short":
        left_out = {"size"} if rng.random() < 0.6 else set()
        return left_out | ({"motion"} if chance < 0.1 else {"background"})
    if style == "plain":
        return {"size"} if chance < 0.1 else {"background"} if chance < 0.2 else set()
    return set()


def _word(name: str, value: str, rng: np.random.Generator) -> str:
    words = SYNONYMS[name][value]
    # Both numbers are always drawn, so that one fact's words do not change what is drawn for the next.
    chance, other = rng.random(), rng.random()
    if len(words) == 1 or chance >= CHANCE_OF_A_SYNONYM + 0.2 * (name == "motion"):
        return words[0]
    return words[1 + int(other * (len(words) - 1))]


def _phrases(table: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, str]]:
    """Every phrase that names a fact, those of `SYNONYMS` and what people type besides."""
    phrases = {
        phrase: (name, value) for name, values in table.items() for value, words in values.items() for phrase in words
    }
    typed = {
        "size": {"small": ("smaller", "miniature"), "large": ("larger", "bigger", "huge")},
        "shape": {"ball": ("balls", "spheres"), "cube": ("cubes", "boxes", "blocks"), "cone": ("cones",)},
        "motion": {
            "left": ("leftwards", "towards left"),
            "right": ("rightwards", "towards right"),
            "up": ("rises", "rising", "from bottom to top"),
            "down": ("descends", "descending", "falling", "from top to bottom"),
            "still": ("not moving", "does not move", "stationary", "resting", "rests"),
        },
    }
    for name, values in typed.items():
        for value, words in values.items():
            phrases |= dict.fromkeys(words, (name, value))
    return phrases


_PHRASES = _phrases(SYNONYMS)
_PHRASE_PATTERN = re.compile(r"\b(?:" + "|".join(sorted(_PHRASES, key=len, reverse=True)) + r")\b")


def _all_words() -> tuple[str, ...]:
    texts = [phrase for values in SYNONYMS.values() for words in values.values() for phrase in words]
    texts += [*MOVES, *MOVING, *RESTS, *RESTING, *STEADILY, *FLOORS, "a", "an", "plain"]
    for templates in (TEMPLATES, IMAGE_TEMPLATES):
        texts += [re.sub(r"\{\w+\}", " ", template) for rows in templates.values() for template in rows]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z]+", text)}))


ALL_WORDS = _all_words()
"""Every word that a caption of the core grammar can hold. The tokenizers of shipped models were made from it."""


def words(grammar: str) -> tuple[str, ...]:
    """Every word that a caption of a grammar can hold. Raises UserError for an unknown grammar."""
    if grammar not in GRAMMARS:
        raise UserError(f"there is no grammar {grammar!r} of scenes; there is {', '.join(GRAMMARS)}")
    return {"core": ALL_WORDS, "full": FULL_WORDS}[grammar]
