"""Draws scenes by seed. The words, the withheld rule and the nouns `Toy` and `Scene` are in `grammar`.

**What the full grammar leaves out**, because pixels could not tell it from something else:

| never drawn | why |
|---|---|
| a pan or zoom over a plain floor | nothing shows it |
| a pan over stripes | slid along themselves, they look the same |
| a pan or zoom with toys that do anything but rest | whose motion is it? Growth, above all, looks like a zoom |
| a spinning ball, cone, cylinder or ring | turned, they look the same |
| a spin by the angle of a symmetry | the same again (`SPIN`) |
| evening or night on a black floor, evening on a cyan one | black takes no colour, and cyan turns green (`UNLIT`) |
| a white toy on white or gray, a teal one on cyan, ... | in some light one is the other's colour (`CLASHES`) |
| toys that touch or cross, or leave the frame | their facts would be hidden |
| two toys of one colour and shape that differ otherwise | their names would be the same |

Toys that are alike in every word do occur, and are called "two blue cubes". The size of a toy that grows or shrinks,
or that is zoomed at, is no fact.
"""

from typing import Literal

import numpy as np

from cogvideox.errors import UserError
from cogvideox.toybox.scenes.grammar import (
    FACTS,
    GRAMMARS,
    MARGIN,
    MOTIONS,
    REACH,
    SIZE_JITTER,
    SIZES,
    Scene,
    Toy,
    withheld,
)
from cogvideox.toybox.scenes.sample_full import draw_full

TRAVEL = (0.33, 0.42)
"""Shortest and longest way of a moving toy in the core grammar, over the whole of `Scene.seconds`."""


def draw(
    seed: int | np.random.Generator,
    grammar: str = "core",
    *,
    side: Literal["all", "training", "withheld"] = "all",
    seconds: float = 1.0,
    **fixed: str,
) -> Scene:
    """Draws one scene; the same seed gives the same scene.

    `side` keeps to one side of the withheld rule. `seconds` is how long a toy moves: the length of the clip,
    (num_frames - 1) / fps, 0 for a single frame. `fixed` sets facts by name (`color`, `shape`, `size`, `motion`,
    `background`; in the full grammar, those of the first toy, and `count`, `pattern`, `camera`, `light`) and leaves
    the rest to chance. Raises UserError for an unknown grammar or a word that it lacks, and where `fixed` leaves
    nothing on `side` or nothing that the grammar allows.
    """
    if grammar not in GRAMMARS:
        raise UserError(f"there is no grammar {grammar!r} of scenes; there is {', '.join(GRAMMARS)}")
    rng = np.random.default_rng(seed)
    choices = _choices(grammar)
    for name, word in fixed.items():
        if name not in choices or word not in choices[name]:
            rule = f"its words are {', '.join(choices[name])}" if name in choices else f"facts are {', '.join(choices)}"
            hint = " (the full grammar has it)" if word in _choices("full").get(name, ()) else ""
            raise UserError(f"the {grammar} grammar has no {name} {word!r}; {rule}{hint}")
    possible = False
    for _ in range(10_000):
        scene = draw_full(rng, seconds, fixed) if grammar == "full" else _draw_core(rng, seconds, fixed)
        possible = possible or scene is not None
        if scene is not None and (side == "all" or withheld(scene) == (side == "withheld")):
            return scene
    asked = ", ".join(f"{name}={word}" for name, word in fixed.items())
    if possible:
        raise UserError(f"no {side} scene with {asked} was found: they are on the other side of the withheld rule")
    raise UserError(
        f"no scene has {asked}: the {grammar} grammar leaves it out, as pixels could not show it or there is no room"
    )


def _choices(grammar: str) -> dict[str, tuple[str, ...]]:
    return {name: getattr(GRAMMARS[grammar], f"{name}s") for name in FACTS[grammar]}


def _draw_core(rng: np.random.Generator, seconds: float, fixed: dict[str, str]) -> Scene:
    # One number is drawn per fact even where it is fixed, so that fixing one leaves the others as they were.
    facts = {name: options[int(rng.integers(len(options)))] for name, options in _choices("core").items()} | fixed
    return _place(facts, rng, seconds)


def _place(facts: dict[str, str], rng: np.random.Generator, seconds: float) -> Scene:
    """Puts a toy where it stays inside the frame all the time."""
    jitter, way, along, across = rng.random(4)
    radius = SIZES[facts["size"]] * (1.0 + SIZE_JITTER * (2.0 * jitter - 1.0))
    room = 0.5 - MARGIN - REACH * radius  # the centre stays within [-room, room]
    travel = min(TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * way, 2.0 * room)
    dx, dy = MOTIONS[facts["motion"]]
    moving = dx != 0.0 or dy != 0.0
    middle = (2.0 * along - 1.0) * (room - travel / 2.0 if moving else room * 0.75)
    side = (2.0 * across - 1.0) * room * 0.75
    if dy != 0.0:
        x, y = side, middle - dy * travel / 2.0
    else:
        x, y = middle - dx * travel / 2.0, side
    toy = Toy(
        color=facts["color"],
        shape=facts["shape"],
        size=facts["size"],
        motion=facts["motion"],
        x=float(x),
        y=float(y),
        radius=float(radius),
        speed=float(travel / seconds) if moving and seconds > 0 else 0.0,
    )
    return Scene(toys=(toy,), background=facts["background"], seconds=seconds)
