"""Captions of scenes, evaluation prompts, and parsing of prompts into facts, for all grammars.

Captions are plain lower-case English. `short` names color, shape and usually the motion, sometimes the size; `plain`
usually names all facts in one sentence; `dense` names all of them in two or more. A caption may omit a fact but never
states a wrong one.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cogvideox.errors import UserError
from cogvideox.toybox.captions.core import CORE_WORDS, STYLES, caption_core_scene, parse_core_prompt
from cogvideox.toybox.captions.free import FREE_WORDS, caption_free
from cogvideox.toybox.captions.full import FULL_WORDS, caption_full_scene
from cogvideox.toybox.captions.full_parser import parse_full_prompt
from cogvideox.toybox.scenes.grammar import GRAMMARS, Scene
from cogvideox.toybox.scenes.sampler import sample_scene


def caption_scene(
    scene: Scene,
    style: str = "plain",
    seed: int | np.random.Generator = 0,
    *,
    image: bool = False,
    complete: bool = False,
) -> str:
    """Return a true caption of a scene. The same seed returns the same caption.

    Args:
        style: `short`, `plain` or `dense`; or `free` (`captions.free`), for scenes of the pair grammar.
        image: caption a single frame, which shows no motion.
        complete: omit no fact that the style can name (`plain` and `dense` then name all five facts of a core scene,
            or four for an image).

    Raises:
        UserError: an unknown style.
    """
    if style == "free":
        return caption_free(scene, np.random.default_rng(seed), image=image)
    if style not in STYLES:
        raise UserError(f"unknown caption style {style!r}: choose one of {', '.join((*STYLES, 'free'))}")
    caption = caption_full_scene if scene.grammar == "full" else caption_core_scene
    return caption(scene, style, np.random.default_rng(seed), image=image, complete=complete)


def sample_prompts(
    count: int,
    seed: int = 0,
    *,
    split: Literal["all", "training", "held_out"] = "held_out",
    style: str = "plain",
    grammar: str = "core",
) -> list[tuple[str, Scene]]:
    """Sample evaluation prompts that name every fact, each with a scene that matches it."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, grammar, split=split) for _ in range(count)]
    return [(caption_scene(scene, style, rng, complete=True), scene) for scene in scenes]


def parse_prompt(prompt: str, grammar: str = "core") -> dict[str, str]:
    """Return the facts that a free-form prompt names, keyed as in `Scene.facts`. Unknown words are ignored.

    In the core grammar, the facts are a subset of color, shape, size, motion and background. In the full grammar, a
    prompt may name several toys and more facts of the scene.
    """
    return parse_full_prompt(prompt) if grammar == "full" else parse_core_prompt(prompt)


def caption_words(grammar: str) -> Sequence[str]:
    """Return every word of a grammar's captions; for the pair grammar, the words of all grammars and free captions.

    Raises:
        UserError: an unknown grammar.
    """
    if grammar not in GRAMMARS:
        raise UserError(f"unknown grammar {grammar!r}: choose one of {', '.join(GRAMMARS)}")
    words = {"core": CORE_WORDS, "full": FULL_WORDS, "pair": tuple(sorted({*CORE_WORDS, *FULL_WORDS, *FREE_WORDS}))}
    return words[grammar]
