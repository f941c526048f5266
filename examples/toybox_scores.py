"""Compare toybox models on three sets of prompts that were held out from training, judged from the pixels.

    python examples/toybox_scores.py --models toybox runs/toybox-pretrain-final/model --num-prompts 300

- core: one toy, all five facts, as in `toybox_page.py`;
- word order: in another order the same words mean something else: "from left to right", or two toys whose colors or
  motions could be swapped;
- two toys: different ones, each with its own color, shape, size and motion.

"Held out" means that a toy's color, shape and motion together occur in no training clip.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch

from cogvideox import CogVideoX
from cogvideox.errors import UserError
from cogvideox.toybox.captions.caption import caption_scene, parse_prompt, sample_prompts
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.scenes.grammar import CORE, Scene, fact_name, is_withheld_triple
from cogvideox.toybox.scenes.sampler import sample_scene

Prompts = Sequence[tuple[str, Scene | Mapping[str, str]]]

PATHS = {
    "left": "from right to left",
    "right": "from left to right",
    "up": "from bottom to top",
    "down": "from top to bottom",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["toybox"], help="shipped models or model folders")
    parser.add_argument("--num-prompts", type=int, default=300, help="number of prompts of each set")
    parser.add_argument("--seed", type=int, default=100, help="seed of the prompts; video i has seed + i")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the model's")
    options = parser.parse_args()
    sets = {
        "core": sample_prompts(options.num_prompts, options.seed),
        "word order": word_order_prompts(options.num_prompts, options.seed),
        "two toys": two_toy_prompts(options.num_prompts, options.seed),
    }
    print(f"| model | set | {' | '.join(('color', 'shape', 'size', 'motion', 'background', 'count', 'all'))} |")
    print(f"|{'---|' * 9}")
    for name in options.models:
        pipe = CogVideoX.from_pretrained(name)
        for kind, prompts in sets.items():
            scores = fact_accuracies(judged(pipe, prompts, options.seed, options.steps))
            cells = [
                f"{scores[fact].value:.1%}" if fact in scores else ""
                for fact in ("color", "shape", "size", "motion", "background", "count", "all")
            ]
            print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


def judged(pipe: CogVideoX, prompts: Prompts, seed: int, steps: int | None) -> list[dict[str, bool]]:
    """Generate and judge a video for each prompt. For a prompt that the model rejects, all facts are wrong."""
    verdicts = []
    for i, (prompt, expected) in enumerate(prompts):
        spec = pipe.settings
        frames, made = np.zeros((spec.num_frames, spec.height, spec.width, 3), np.uint8), True
        try:
            frames = pipe.generate(prompt, seed=seed + i, num_inference_steps=steps).frames
        except UserError:
            made = False
        (verdict,) = judge_clips(torch.from_numpy(frames)[None], [expected], "full")
        verdicts.append({fact: correct and made for fact, correct in verdict.items()})
    return verdicts


def word_order_prompts(number: int, seed: int) -> Prompts:
    """Return different prompts whose words mean something else in another order, and the facts of each.

    Each prompt names a held-out composition. A third are of one toy, but at most the 96 that there are.
    """
    rng = np.random.default_rng(seed)

    def pick(words: Sequence[str], count: int) -> list[str]:
        return [words[i] for i in rng.permutation(len(words))[:count]]

    one_toy = [  # the reverse path has the same words
        f"a {size} {color} {shape} moves {path} on a {floor} background"
        for color, shape, (motion, path) in product(CORE.colors, CORE.shapes, PATHS.items())
        if is_withheld_triple(color, shape, motion)
        for size, floor in product(CORE.sizes, CORE.backgrounds)
    ]
    prompts = {prompt: parse_prompt(prompt, "full") for prompt in pick(one_toy, -(-number // 3))}
    while len(prompts) < number:
        (one, two), (this, that), (floor,) = pick(CORE.colors, 2), pick(CORE.shapes, 2), pick(CORE.backgrounds, 1)
        here, there = pick(CORE.motions, 2)
        if len(prompts) % 2:  # the colors could be swapped
            moves = "stay still" if here == "still" else f"move {here}"
            prompt = f"a small {one} {this} and a small {two} {that} {moves} on a {floor} floor"
        else:  # the motions could be swapped
            first, second = ("stays still" if way == "still" else f"moves {way}" for way in (here, there))
            prompt = f"a small {one} {this} {first} and a small {two} {that} {second} on a {floor} floor"
        facts = parse_prompt(prompt, "full")
        if names_withheld_toy(facts):
            prompts[prompt] = facts
    return list(prompts.items())


def names_withheld_toy(facts: Mapping[str, str]) -> bool:
    """Return whether the first or the second toy of a prompt's facts is a held-out composition."""
    toys = [[facts.get(fact_name(name, number), "") for name in ("color", "shape", "motion")] for number in (1, 2)]
    return any(is_withheld_triple(*toy) for toy in toys)


def two_toy_prompts(number: int, seed: int) -> Prompts:
    """Return prompts that name all facts of two different toys, of which at least one is a held-out composition."""
    rng = np.random.default_rng(seed)
    prompts: dict[str, Scene] = {}
    while len(prompts) < number:
        scene = sample_scene(rng, "pair", split="withheld", seconds=2.0, count="two")
        if scene.toys[0].facts != scene.toys[1].facts:
            prompts[caption_scene(scene, "plain", rng, complete=True)] = scene
    return list(prompts.items())


if __name__ == "__main__":
    main()
