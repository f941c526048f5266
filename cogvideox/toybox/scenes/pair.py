"""Sampling of pair-grammar scenes: one toy as in the core grammar, or two toys on a plain floor, each with a color,
shape, size and motion. A scene of two toys belongs to the full grammar, which captions and judges it."""

from collections.abc import Iterator, Mapping

import numpy as np

from cogvideox.toybox.scenes.core import sample_core_scene
from cogvideox.toybox.scenes.full import SCENE_ATTEMPTS, place_toys, uniform_numbers
from cogvideox.toybox.scenes.grammar import PAIR, TOY_FACTS, Scene

TWO_TOYS_PROBABILITY = 0.5
IDENTICAL_TOYS_PROBABILITY = 0.1


def sample_pair_scene(rng: np.random.Generator, seconds: float, fixed: Mapping[str, str]) -> Scene | None:
    """Sample a scene with the facts `fixed` of the scene and of its first toy; None if the toys do not fit."""
    count = "two" if rng.random() < TWO_TOYS_PROBABILITY else "one"
    if fixed.get("count", count) == "one":
        return sample_core_scene(rng, seconds, {name: word for name, word in fixed.items() if name != "count"})
    uniform = uniform_numbers(rng)
    background = fixed.get("background", _pick(PAIR.backgrounds, uniform))
    for _ in range(SCENE_ATTEMPTS):
        first, second = ([_pick(getattr(PAIR, f"{name}s"), uniform) for name in TOY_FACTS] for _ in range(2))
        first = [fixed.get(name, word) for name, word in zip(TOY_FACTS, first)]
        if next(uniform) < IDENTICAL_TOYS_PROBABILITY:
            second = first
        elif first[:2] == second[:2]:  # captions could not distinguish them
            continue
        toys = place_toys((tuple(first), tuple(second)), "still", 0.0, seconds, uniform)
        if toys is not None:
            return Scene(toys=toys, background=background, seconds=seconds, grammar="full")
    return None


def _pick(words: tuple[str, ...], uniform: Iterator[float]) -> str:
    return words[int(next(uniform) * len(words))]
