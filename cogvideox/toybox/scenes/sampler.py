"""Sampling of scenes from a seed, in any grammar. The words, `Toy`, `Scene` and the held-out rule are in `grammar`.

**What the full grammar excludes**, because pixels could not distinguish it from something else:

| never sampled | why |
|---|---|
| a pan or zoom over a plain floor | nothing shows the camera motion |
| a pan over stripes | shifted along themselves, stripes look the same |
| a pan or zoom with toys that are not at rest | toy motion and camera motion are ambiguous; growth looks like a zoom |
| a spinning ball, cone, cylinder or ring | rotated, they look the same |
| a spin by a multiple of the symmetry angle | the same again (`SPIN_TURNS`) |
| evening or night on a black floor, evening on a cyan one | black takes no tint, cyan turns green |
| a white toy on white or gray, a teal one on cyan, ... | in some light the colors are equal (`CLASHING_COLORS`) |
| toys that touch, cross or leave the frame | their facts would be hidden |
| two toys of one color and shape that differ otherwise | captions could not tell them apart |

Toys that are identical in every fact do occur, and are captioned as "two blue cubes". The size of a toy that grows or
shrinks, or that is seen by a zooming camera, is not a fact.
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
    """Sample one scene; the same seed gives the same scene.

    Args:
        grammar: `core`, `full` or `pair`.
        split: restricts to one side of the held-out rule.
        seconds: how long toys move: the length of the clip, (num_frames - 1) / fps; 0 for a single frame.
        **fixed: facts set by name (`color`, `shape`, `size`, `motion`, `background`; in the full grammar those of the
            first toy, and `count`, `pattern`, `camera`, `light`; in the pair grammar those of the first toy, and
            `count`). The rest is sampled.

    Raises:
        UserError: an unknown grammar, a fact or word that the grammar lacks, or a combination of `fixed` and `split`
            that the grammar excludes.
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
