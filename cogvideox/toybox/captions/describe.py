"""Captions of the full grammar, in the three styles of `caption`.

`short` says what the toys are and do, `plain` adds floor, light and camera in the same sentence, `dense` takes a
sentence for each. Toys that are alike are counted, and toys that do the same share a verb. Daylight, a plain floor and
a fixed camera often go without saying in `plain` and `dense`; any other light, pattern or camera is always said there.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cogvideox.toybox.captions import vocabulary
from cogvideox.toybox.scenes.grammar import COUNTS, MOTIONS, ZOOMS, Scene

T = TypeVar("T")

FULL_MAX_WORDS = 38
CHANCE_OF_A_SYNONYM = 0.3
CHANCE_OF_THE_OBVIOUS = 0.2
"""How often daylight, a plain floor or a fixed camera is said."""


def describe(scene: Scene, style: str, rng: np.random.Generator, *, image: bool, complete: bool) -> str:
    """Says something true about a scene of the full grammar: see `caption.caption`."""
    kinds = list(dict.fromkeys(toy.kind for toy in scene.toys))
    counts = [sum(toy.kind == kind for toy in scene.toys) for kind in kinds]
    chance, size_chance = rng.random(), rng.random()
    say_size = complete or size_chance < {"short": 0.4, "plain": 0.9, "dense": 1.0}[style]
    brief = len(kinds) == 3  # three different toys leave no room for long words
    names = [
        _name(kind, count, rng, size=say_size and _has_size(kind, scene), brief=brief)
        for kind, count in zip(kinds, counts)
    ]
    ground, light, camera = _ground(scene, rng), _light(scene, rng), _camera(scene, rng)
    if style == "short":
        if image or chance < 0.1:
            return f"{_join(names)} on {ground}" if chance < 0.5 else _join(names)
        return _deeds(names, kinds, counts, rng, form=2 if chance < 0.7 else 1, brief=brief)
    what = _join(names) if image else _deeds(names, kinds, counts, rng, form=1, brief=brief)
    if style == "plain":
        if not image and len(kinds) == 1 and chance < 0.3:
            what = _deeds(names, kinds, counts, rng, form=2, brief=brief)
        if image:
            return f"{what} on {ground}{light}" if chance < 0.6 else f"on {ground}{light}, {what}"
        while_ = f", while the camera {camera}" if camera else ""
        return f"{what} on {ground}{light}{while_}" if chance < 0.6 else f"on {ground}{light}, {what}{while_}"
    if image:
        return f"a picture of {what} on {ground}{light}." if chance < 0.6 else f"{ground}{light}. {what}."
    last = f" the camera {camera}." if camera else ""
    if len(kinds) == 1 and chance < 0.4:
        pronoun = "it" if counts[0] == 1 else "they"
        deed = _deeds([pronoun], kinds, counts, rng, form=1, brief=brief)
        return f"a video of {names[0]} on {ground}{light}. {deed}.{last}"
    return f"{what} on {ground}{light}.{last}" if chance < 0.6 else f"{ground}{light}. {what}.{last}"


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of the options, all of them equally likely."""
    return options[int(rng.integers(len(options)))]


def article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _name(kind: Sequence[str], count: int, rng: np.random.Generator, *, size: bool, brief: bool) -> str:
    color, shape, big, _ = kind
    parts = [
        _word(vocabulary.SIZES[big], rng),
        _word(vocabulary.COLORS[color], rng, brief=brief),
        _word(vocabulary.SHAPES[shape], rng)[int(count > 1)],
    ]
    phrase = " ".join(parts if size else parts[1:])
    return article(phrase) if count == 1 else f"{COUNTS[count - 1]} {phrase}"


def _has_size(kind: Sequence[str], scene: Scene) -> bool:
    return kind[3] not in ("grow", "shrink") and scene.camera not in ZOOMS


def _deeds(
    names: Sequence[str],
    kinds: Sequence[Sequence[str]],
    counts: Sequence[int],
    rng: np.random.Generator,
    *,
    form: int,
    brief: bool,
) -> str:
    """Toys and what they do; `form` 1 is a sentence, 2 takes participles."""
    motions = [kind[3] for kind in kinds]
    if len(set(motions)) == 1:
        several = len(names) > 1 or counts[0] > 1
        return f"{_join(names)} {_deed(motions[0], rng, form if form == 2 else int(several), brief=brief)}"
    clauses = [
        f"{name} {_deed(motion, rng, form if form == 2 else int(count > 1), brief=brief)}"
        for name, motion, count in zip(names, motions, counts)
    ]
    return _join(clauses)


def _deed(motion: str, rng: np.random.Generator, form: int, *, brief: bool) -> str:
    if motion not in MOTIONS:
        return _word(vocabulary.DEEDS[motion], rng)[form]
    if motion == "still":
        return f"{pick(vocabulary.STAY, rng)[form]} {_word(vocabulary.REST, rng, brief=brief)}"
    return f"{pick(vocabulary.MOVE, rng)[form]} {_word(vocabulary.WAYS[motion], rng, brief=brief)}"


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    said = scene.pattern != "plain" or rng.random() < CHANCE_OF_THE_OBVIOUS
    pattern = f"{_word(vocabulary.PATTERNS[scene.pattern], rng)} " if said else ""
    return article(f"{pattern}{_word(vocabulary.BACKGROUNDS[scene.background], rng)} {pick(vocabulary.FLOORS, rng)}")


def _light(scene: Scene, rng: np.random.Generator) -> str:
    said = scene.light != "day" or rng.random() < CHANCE_OF_THE_OBVIOUS
    return f" {_word(vocabulary.LIGHTS[scene.light], rng)}" if said else ""


def _camera(scene: Scene, rng: np.random.Generator) -> str:
    said = scene.camera != "still" or rng.random() < CHANCE_OF_THE_OBVIOUS
    return _word(vocabulary.CAMERAS[scene.camera], rng) if said else ""


def _word(options: Sequence[T], rng: np.random.Generator, *, brief: bool = False) -> T:
    chance, other = rng.random(), rng.random()
    if brief or len(options) == 1 or chance >= CHANCE_OF_A_SYNONYM:
        return options[0]
    return options[1 + int(other * (len(options) - 1))]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _full_words() -> tuple[str, ...]:
    tables = (
        vocabulary.COLORS,
        vocabulary.SIZES,
        vocabulary.BACKGROUNDS,
        vocabulary.PATTERNS,
        vocabulary.WAYS,
        vocabulary.LIGHTS,
    )
    texts = [text for table in (*tables, vocabulary.CAMERAS) for row in table.values() for text in row]
    bent = [*vocabulary.SHAPES.values(), *vocabulary.DEEDS.values(), vocabulary.MOVE, vocabulary.STAY]
    texts += [text for rows in bent for row in rows for text in row]
    texts += [
        *vocabulary.FLOORS,
        *vocabulary.REST,
        *COUNTS[1:],
        "a an and on it they while the camera a video picture of",
    ]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z]+", text)}))


FULL_WORDS = _full_words()
"""Every word that a caption of the full grammar can hold."""
