"""Captions of full-grammar scenes, in the styles `short`, `plain` and `dense`.

`short` names the toys and their motions, `plain` adds floor, light and camera in the same sentence, `dense` uses a
sentence for each. Identical toys are counted, and toys with the same motion share a verb. `plain` and `dense` captions
often omit the defaults (daylight, a plain floor, a fixed camera), but never another light, pattern or camera motion.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cogvideox.toybox.captions import vocabulary
from cogvideox.toybox.captions.vocabulary import SYNONYM_PROBABILITY, article, pick
from cogvideox.toybox.scenes.grammar import COUNTS, MOTIONS, ZOOMS, Scene

T = TypeVar("T")

FULL_MAX_WORDS = 38
"""Number of words in the longest caption."""
DEFAULT_FACT_PROBABILITY = 0.2
"""Probability of naming daylight, a plain floor or a fixed camera."""


def caption_full_scene(scene: Scene, style: str, rng: np.random.Generator, *, image: bool, complete: bool) -> str:
    """Return a caption of a full-grammar scene: see `caption.caption_scene`."""
    kinds = list(dict.fromkeys(toy.facts for toy in scene.toys))
    counts = [sum(toy.facts == kind for toy in scene.toys) for kind in kinds]
    u, size_u = rng.random(), rng.random()
    with_size = complete or size_u < {"short": 0.4, "plain": 0.9, "dense": 1.0}[style]
    brief = len(kinds) == 3  # three different toys fit into the maximum length only with short words
    names = [
        _name(kind, count, rng, size=with_size and _has_size(kind, scene), brief=brief)
        for kind, count in zip(kinds, counts)
    ]
    ground, light, camera = _ground(scene, rng), _light(scene, rng), _camera(scene, rng)
    if style == "short":
        if image or u < 0.1:
            return f"{_join(names)} on {ground}" if u < 0.5 else _join(names)
        return _clauses(names, kinds, counts, rng, participle=u < 0.7, brief=brief)
    toys = _join(names) if image else _clauses(names, kinds, counts, rng, participle=False, brief=brief)
    if style == "plain":
        if not image and len(kinds) == 1 and u < 0.3:
            toys = _clauses(names, kinds, counts, rng, participle=True, brief=brief)
        if image:
            return f"{toys} on {ground}{light}" if u < 0.6 else f"on {ground}{light}, {toys}"
        while_ = f", while the camera {camera}" if camera else ""
        return f"{toys} on {ground}{light}{while_}" if u < 0.6 else f"on {ground}{light}, {toys}{while_}"
    if image:
        return f"a picture of {toys} on {ground}{light}." if u < 0.6 else f"{ground}{light}. {toys}."
    last = f" the camera {camera}." if camera else ""
    if len(kinds) == 1 and u < 0.4:
        pronoun = "it" if counts[0] == 1 else "they"
        clause = _clauses([pronoun], kinds, counts, rng, participle=False, brief=brief)
        return f"a video of {names[0]} on {ground}{light}. {clause}.{last}"
    return f"{toys} on {ground}{light}.{last}" if u < 0.6 else f"{ground}{light}. {toys}.{last}"


def _name(kind: Sequence[str], count: int, rng: np.random.Generator, *, size: bool, brief: bool) -> str:
    color, shape, size_word, _ = kind
    words = [
        _word(vocabulary.SIZES[size_word], rng),
        _word(vocabulary.COLORS[color], rng, brief=brief),
        _word(vocabulary.SHAPES[shape], rng)[int(count > 1)],
    ]
    phrase = " ".join(words if size else words[1:])
    return article(phrase) if count == 1 else f"{COUNTS[count - 1]} {phrase}"


def _has_size(kind: Sequence[str], scene: Scene) -> bool:
    return kind[3] not in ("grow", "shrink") and scene.camera not in ZOOMS


def _clauses(
    names: Sequence[str],
    kinds: Sequence[Sequence[str]],
    counts: Sequence[int],
    rng: np.random.Generator,
    *,
    participle: bool,
    brief: bool,
) -> str:
    """Describe the toys and their motions: "a ball moves left" or, with a participle, "a ball moving left"."""
    motions = [kind[3] for kind in kinds]
    if len(set(motions)) == 1:
        several = len(names) > 1 or counts[0] > 1
        return f"{_join(names)} {_verb(motions[0], rng, 2 if participle else int(several), brief=brief)}"
    clauses = [
        f"{name} {_verb(motion, rng, 2 if participle else int(count > 1), brief=brief)}"
        for name, motion, count in zip(names, motions, counts)
    ]
    return _join(clauses)


def _verb(motion: str, rng: np.random.Generator, form: int, *, brief: bool) -> str:
    """Choose a verb for a motion; `form` is an index into `vocabulary.Verb`."""
    if motion not in MOTIONS:
        return _word(vocabulary.MOTION_VERBS[motion], rng)[form]
    if motion == "still":
        return f"{pick(vocabulary.STAY, rng)[form]} {_word(vocabulary.REST, rng, brief=brief)}"
    return f"{pick(vocabulary.MOVE, rng)[form]} {_word(vocabulary.DIRECTIONS[motion], rng, brief=brief)}"


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    named = scene.pattern != "plain" or rng.random() < DEFAULT_FACT_PROBABILITY
    pattern = f"{_word(vocabulary.PATTERNS[scene.pattern], rng)} " if named else ""
    return article(f"{pattern}{_word(vocabulary.BACKGROUNDS[scene.background], rng)} {pick(vocabulary.FLOORS, rng)}")


def _light(scene: Scene, rng: np.random.Generator) -> str:
    named = scene.light != "day" or rng.random() < DEFAULT_FACT_PROBABILITY
    return f" {_word(vocabulary.LIGHTS[scene.light], rng)}" if named else ""


def _camera(scene: Scene, rng: np.random.Generator) -> str:
    named = scene.camera != "still" or rng.random() < DEFAULT_FACT_PROBABILITY
    return _word(vocabulary.CAMERAS[scene.camera], rng) if named else ""


def _word(options: Sequence[T], rng: np.random.Generator, *, brief: bool = False) -> T:
    u, v = rng.random(), rng.random()
    if brief or len(options) == 1 or u >= SYNONYM_PROBABILITY:
        return options[0]
    return options[1 + int(v * (len(options) - 1))]


def _join(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _full_words() -> tuple[str, ...]:
    tables = (
        vocabulary.COLORS,
        vocabulary.SIZES,
        vocabulary.BACKGROUNDS,
        vocabulary.PATTERNS,
        vocabulary.DIRECTIONS,
        vocabulary.LIGHTS,
    )
    phrases = [phrase for table in (*tables, vocabulary.CAMERAS) for row in table.values() for phrase in row]
    inflected = [*vocabulary.SHAPES.values(), *vocabulary.MOTION_VERBS.values(), vocabulary.MOVE, vocabulary.STAY]
    phrases += [form for rows in inflected for row in rows for form in row]
    phrases += [
        *vocabulary.FLOORS,
        *vocabulary.REST,
        *COUNTS[1:],
        "a an and on it they while the camera a video picture of",
    ]
    return tuple(sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)}))


FULL_WORDS = _full_words()
"""Every word of full-grammar captions."""
