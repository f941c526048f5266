"""Three sets of prompts that were held out from training: a toy's color, shape and motion together occur in no clip.

- core: one toy, all five facts;
- word order: the same words in a different order have a different meaning: "from left to right", or two toys whose
  colors or motions could be swapped;
- two toys: different ones, each with its own color, shape, size and motion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cogvideox.toybox.captions.caption import caption_scene, parse_prompt, sample_prompts
from cogvideox.toybox.scenes.grammar import CORE, Scene, fact_name, is_held_out_triple
from cogvideox.toybox.scenes.sampler import sample_scene

PATHS = {
    "left": "from right to left",
    "right": "from left to right",
    "up": "from bottom to top",
    "down": "from top to bottom",
}


@dataclass(frozen=True)
class FactPrompt:
    """A prompt, the facts that it names, and the grammar by which they are judged."""

    prompt: str
    facts: Mapping[str, str]
    grammar: str = "full"


def held_out_prompts(number: int, seed: int) -> dict[str, list[FactPrompt]]:
    """Return `number` different prompts of each set, by its name; the same seed gives the same prompts."""
    return {
        "core": core_prompts(number, seed),
        "word order": word_order_prompts(number, seed),
        "two toys": two_toy_prompts(number, seed),
    }


def core_prompts(number: int, seed: int) -> list[FactPrompt]:
    """Return prompts that name all facts of one toy; the same prompt may occur twice."""
    return [FactPrompt(prompt, scene.facts, "core") for prompt, scene in sample_prompts(number, seed)]


def word_order_prompts(number: int, seed: int) -> list[FactPrompt]:
    """Return different prompts whose meaning depends on word order.

    Each prompt names a held-out composition. A third of the prompts, but at most 96, are of one toy.
    """
    rng = np.random.default_rng(seed)

    def pick(words: Sequence[str], count: int) -> list[str]:
        return [words[i] for i in rng.permutation(len(words))[:count]]

    one_toy = [  # the reverse path has the same words
        f"a {size} {color} {shape} moves {path} on a {floor} background"
        for color, shape, (motion, path) in product(CORE.colors, CORE.shapes, PATHS.items())
        if is_held_out_triple(color, shape, motion)
        for size, floor in product(CORE.sizes, CORE.backgrounds)
    ]
    prompts = {prompt: parse_prompt(prompt, "full") for prompt in pick(one_toy, -(-number // 3))}
    while len(prompts) < number:
        colors, shapes = pick(CORE.colors, 2), pick(CORE.shapes, 2)
        (floor,), motions = pick(CORE.backgrounds, 1), pick(CORE.motions, 2)
        first, second = (f"a small {color} {shape}" for color, shape in zip(colors, shapes))
        if len(prompts) % 2:  # the colors could be swapped
            verb = "stay still" if motions[0] == "still" else f"move {motions[0]}"
            prompt = f"{first} and {second} {verb} on a {floor} floor"
        else:  # the motions could be swapped
            verbs = ["stays still" if motion == "still" else f"moves {motion}" for motion in motions]
            prompt = f"{first} {verbs[0]} and {second} {verbs[1]} on a {floor} floor"
        facts = parse_prompt(prompt, "full")
        if names_held_out_toy(facts):
            prompts[prompt] = facts
    return [FactPrompt(prompt, facts) for prompt, facts in prompts.items()]


def names_held_out_toy(facts: Mapping[str, str]) -> bool:
    """Return whether the first or the second toy of a prompt's facts is a held-out composition."""
    toys = [[facts.get(fact_name(name, number), "") for name in ("color", "shape", "motion")] for number in (1, 2)]
    return any(is_held_out_triple(*toy) for toy in toys)


def two_toy_prompts(number: int, seed: int) -> list[FactPrompt]:
    """Return prompts that name all facts of two different toys, of which at least one is a held-out composition."""
    rng = np.random.default_rng(seed)
    prompts: dict[str, Scene] = {}
    while len(prompts) < number:
        scene = sample_scene(rng, "pair", split="held_out", seconds=2.0, count="two")
        if scene.toys[0].facts != scene.toys[1].facts:
            prompts[caption_scene(scene, "plain", rng, complete=True)] = scene
    return [FactPrompt(prompt, scene.facts) for prompt, scene in prompts.items()]
