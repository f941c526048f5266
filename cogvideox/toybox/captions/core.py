"""Captions of core-grammar scenes, and the parser of core-grammar prompts. Frozen: a seed must always give the same
caption, because tokenizers and scores of shipped models depend on it."""

import re
from collections.abc import Mapping

import numpy as np

from cogvideox.toybox.captions.vocabulary import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    SYNONYM_PROBABILITY,
    article,
    pick,
)
from cogvideox.toybox.scenes.grammar import CORE, CORE_COLORS, Scene

MAX_WORDS = 19
"""Number of words in the longest caption."""

# The first word of each row is the canonical word and the most frequent; the others are synonyms. Colors, sizes and
# backgrounds share the vocabulary of the full grammar, so a new synonym there would change these frozen captions too.
SYNONYMS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "color": {color: COLORS[color] for color in CORE_COLORS},
    "shape": {shape: tuple(singular for singular, _ in SHAPES[shape]) for shape in CORE.shapes},
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

# {toy} and {ground} include their article. {place} is the ground, with or without the adjective "plain". {moves} and
# {moving} are the verb phrase of a toy that moves ("moves left") or rests ("stays in place").
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


def caption_core_scene(scene: Scene, style: str, rng: np.random.Generator, *, image: bool, complete: bool) -> str:
    """Return a caption of a core-grammar scene: see `caption.caption_scene`."""
    facts = scene.facts
    omitted = _omitted_facts(style, rng) if not complete else set()
    word = {name: _word(name, value, rng) for name, value in facts.items()}
    toy = f"{word['color']} {word['shape']}"
    if "size" not in omitted:
        toy = f"{word['size']} {toy}"
    toy = article(toy)
    floor = pick(FLOORS, rng)
    ground = article(f"{word['background']} {floor}")
    place = article(f"plain {word['background']} {floor}") if rng.random() < 0.4 else ground
    steadily = pick(STEADILY, rng)
    template = pick((IMAGE_TEMPLATES if image else TEMPLATES)[style], rng)
    if style == "plain" and "background" in omitted:
        template = "{toy}" if image else "{toy} {moves}"
    if style == "short" and "motion" in omitted and not image:
        template = "{toy} on {ground}"
    if facts["motion"] == "still":
        steadily = ""
        moves, moving = f"{pick(RESTS, rng)} {word['motion']}", f"{pick(RESTING, rng)} {word['motion']}"
    else:
        verb = int(rng.integers(len(MOVES)))
        moves, moving = f"{MOVES[verb]} {word['motion']}", f"{MOVING[verb]} {word['motion']}"
    return template.format(toy=toy, ground=ground, place=place, steadily=steadily, moves=moves, moving=moving)


def parse_core_prompt(prompt: str) -> dict[str, str]:
    """Return the facts that a prompt names.

    The longest phrase matches ("light blue" is a background, "from left to right" is one motion). If a prompt has two
    words for the same fact, the first counts. Other words are ignored.
    """
    facts: dict[str, str] = {}
    words = " ".join(re.findall(r"[a-z]+", prompt.lower()))
    for match in _PHRASE_PATTERN.finditer(words):
        name, value = _PHRASES[match.group()]
        facts.setdefault(name, value)
    return facts


def _omitted_facts(style: str, rng: np.random.Generator) -> set[str]:
    u = rng.random()
    if style == "short":
        size = {"size"} if rng.random() < 0.6 else set()
        return size | ({"motion"} if u < 0.1 else {"background"})
    if style == "plain":
        return {"size"} if u < 0.1 else {"background"} if u < 0.2 else set()
    return set()


def _word(name: str, value: str, rng: np.random.Generator) -> str:
    words = SYNONYMS[name][value]
    # Both numbers are always sampled, so that the words of one fact do not change the random numbers of the next.
    u, v = rng.random(), rng.random()
    if len(words) == 1 or u >= SYNONYM_PROBABILITY + 0.2 * (name == "motion"):
        return words[0]
    return words[1 + int(v * (len(words) - 1))]


def _phrases(table: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, str]]:
    """Return every phrase that names a fact: those in `table`, and others that users type."""
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


def _core_words() -> tuple[str, ...]:
    phrases = [phrase for values in SYNONYMS.values() for words in values.values() for phrase in words]
    phrases += [*MOVES, *MOVING, *RESTS, *RESTING, *STEADILY, *FLOORS, "a", "an", "plain"]
    for templates in (TEMPLATES, IMAGE_TEMPLATES):
        phrases += [re.sub(r"\{\w+\}", " ", template) for rows in templates.values() for template in rows]
    return tuple(sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)}))


CORE_WORDS = _core_words()
"""Every word of core-grammar captions. The tokenizers of shipped models were built from it."""
