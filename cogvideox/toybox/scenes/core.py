"""Sampling of core-grammar scenes: one toy on a plain floor. Frozen: a seed must always give the same scene."""

from collections.abc import Mapping

import numpy as np

from cogvideox.toybox.scenes.grammar import (
    BOX_HALF_SIDE,
    CORE,
    FACTS,
    MARGIN,
    MOTIONS,
    SIZE_JITTER,
    SIZES,
    Scene,
    Toy,
)

TRAVEL = (0.33, 0.42)
"""Minimum and maximum length of a moving toy's path during `Scene.seconds`."""


def sample_core_scene(rng: np.random.Generator, seconds: float, fixed: Mapping[str, str]) -> Scene:
    """Sample a scene of the core grammar with the facts `fixed`."""
    # A number is sampled for every fact even if it is fixed, so that fixing a fact does not change the others.
    words = {name: getattr(CORE, f"{name}s") for name in FACTS["core"]}
    facts = {name: options[int(rng.integers(len(options)))] for name, options in words.items()} | dict(fixed)
    return _place(facts, rng, seconds)


def _place(facts: dict[str, str], rng: np.random.Generator, seconds: float) -> Scene:
    """Place the toy so that it stays inside the frame at all times."""
    size_u, travel_u, along, across = rng.random(4)
    radius = SIZES[facts["size"]] * (1.0 + SIZE_JITTER * (2.0 * size_u - 1.0))
    limit = 0.5 - MARGIN - BOX_HALF_SIDE * radius  # the center stays within [-limit, limit]
    travel = min(TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * travel_u, 2.0 * limit)
    dx, dy = MOTIONS[facts["motion"]]
    moving = dx != 0.0 or dy != 0.0
    midpoint = (2.0 * along - 1.0) * (limit - travel / 2.0 if moving else limit * 0.75)
    offset = (2.0 * across - 1.0) * limit * 0.75
    if dy != 0.0:
        x, y = offset, midpoint - dy * travel / 2.0
    else:
        x, y = midpoint - dx * travel / 2.0, offset
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
