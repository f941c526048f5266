"""Sampling of scenes from a seed, in any grammar. The words, `Toy`, `Scene` and the held-out rule are in `grammar`.

**Exclusions of the full grammar**, because the pixels would be ambiguous:

| never sampled | reason |
|---|---|
| a pan or zoom over a plain floor | nothing shows the camera motion |
| a pan over stripes | stripes look the same when shifted along themselves |
| a pan or zoom with toys that are not at rest | toy motion and camera motion are ambiguous; growth looks like a zoom |
| a spinning ball, cone, cylinder or ring | they look the same when rotated |
| a spin by a multiple of the symmetry angle | the toy looks the same again (`SPIN_TURNS`) |
| evening or night on a black floor, evening on a cyan floor | black has no tint, cyan turns green |
| a white toy on white or gray, a teal toy on cyan, ... | the colors are equal in some light (`CLASHING_COLORS`) |
| toys that touch, cross or leave the frame | their facts would be hidden |
| two toys of the same color and shape that differ otherwise | captions could not distinguish them |

Toys that are identical in every fact do occur, and are captioned as "two blue cubes". The size of a toy that grows or
shrinks, or is filmed by a zooming camera, is not a fact.
"""

from typing import Literal

import numpy as np

from cogvideox.errors import UserError
from cogvideox.toybox.scenes.core import sample_core_scene
from cogvideox.toybox.scenes.full import sample_full_scene
from cogvideox.toybox.scenes.grammar import FACTS, GRAMMARS, Scene, is_held_out
from cogvideox.toybox.scenes.pair import sample_pair_scene

MAX_ATTEMPTS = 10_000
SAMPLERS = {"core": sample_core_scene, "full": sample_full_scene, "pair": sample_pair_scene}


def sample_scene(
    seed: int | np.random.Generator,
    grammar: str = "core",
    *,
    split: Literal["all", "training", "held_out"] = "all",
    seconds: float = 1.0,
    **fixed: str,
) -> Scene:
    """Sample a scene. The same seed returns the same scene.

    Args:
        grammar: `core`, `full` or `pair`.
        split: `training` or `held_out` scenes by the held-out rule, or both.
        seconds: duration of motions, which is that of the clip: (num_frames - 1) / fps; 0 for a single frame.
        **fixed: fixed facts by name; the others are sampled. `color`, `shape`, `size` and `motion` of the first toy,
            `background`; in the pair and full grammars also `count`; in the full grammar also `pattern`, `camera` and
            `light`.

    Raises:
        UserError: an unknown grammar, a fact or word that the grammar does not have, or a combination of `fixed` and
            `split` that the grammar excludes.
    """
    if grammar not in GRAMMARS:
        raise UserError(f"unknown grammar {grammar!r}: choose one of {', '.join(GRAMMARS)}")
    rng = np.random.default_rng(seed)
    _check_fixed(grammar, fixed)
    possible = False
    for _ in range(MAX_ATTEMPTS):
        scene = SAMPLERS[grammar](rng, seconds, fixed)
        possible = possible or scene is not None
        if scene is not None and (split == "all" or is_held_out(scene) == (split == "held_out")):
            return scene
    facts = ", ".join(f"{name}={word}" for name, word in fixed.items())
    if possible:
        name = split.replace("_", "-")
        raise UserError(
            f"no {name} scene with {facts} was found: the held-out rule puts these scenes in the other split; change "
            "the facts or the split"
        )
    raise UserError(
        f"no scene with {facts} is possible: the {grammar} grammar excludes it, because pixels could not show it or "
        "the toys do not fit; change one of the facts"
    )


def _check_fixed(grammar: str, fixed: dict[str, str]) -> None:
    words = {name: getattr(GRAMMARS[grammar], f"{name}s") for name in FACTS[grammar]}
    for name, word in fixed.items():
        if name not in words:
            hint = _hint(name, word)
            raise UserError(f"the {grammar} grammar has no fact {name!r}{hint}; its facts are {', '.join(words)}")
        if word not in words[name]:
            hint = _hint(name, word)
            raise UserError(
                f"the {grammar} grammar has no {name} {word!r}{hint}; choose one of {', '.join(words[name])}"
            )


def _hint(name: str, word: str) -> str:
    return " (the full grammar has it)" if word in getattr(GRAMMARS["full"], f"{name}s", ()) else ""
