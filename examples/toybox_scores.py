"""Compare toybox models on three sets of prompts that were held out from training, judged from the pixels.

    python examples/toybox_scores.py --models toybox runs/toybox-pretrain-final/model --num-prompts 300

- core: one toy, all five facts, as in `toybox_page.py`;
- word order: "from left to right" and its reverse, and two toys with their colors, or their motions, swapped;
- two toys: each with its own color, shape, size and motion.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cogvideox import CogVideoX
from cogvideox.errors import UserError
from cogvideox.toybox.captions.caption import caption_scene, parse_prompt, sample_prompts
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.scenes.grammar import CORE, Scene
from cogvideox.toybox.scenes.sampler import sample_scene

Prompts = Sequence[tuple[str, Scene | Mapping[str, str]]]


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
    """Return prompts that have the same words as another prompt of the set, in another order, and the facts of each."""
    rng = np.random.default_rng(seed)
    prompts: list[str] = []

    def pick(words: Sequence[str], count: int) -> list[str]:
        return [words[i] for i in rng.permutation(len(words))[:count]]

    while len(prompts) < number:
        (one, two), (this, that), (floor,) = pick(CORE.colors, 2), pick(CORE.shapes, 2), pick(CORE.backgrounds, 1)
        kind = len(prompts) // 2 % 4
        if kind < 2:  # half of the prompts
            size = pick(CORE.sizes, 1)[0]
            for way in ("from left to right", "from right to left"):
                prompts.append(f"a {size} {one} {this} moves {way} on a {floor} background")
        elif kind == 2:
            prompts.append(f"a small {one} {this} and a small {two} {that} on a {floor} floor")
            prompts.append(f"a small {two} {this} and a small {one} {that} on a {floor} floor")
        else:
            here, there = pick(CORE.motions, 2)
            moves = {"still": "stays still"} | {way: f"moves {way}" for way in ("left", "right", "up", "down")}
            for first, second in ((here, there), (there, here)):
                prompts.append(
                    f"a small {one} {this} {moves[first]} and a small {two} {that} {moves[second]} on a {floor} floor"
                )
    prompts = [prompt.replace("a orange", "an orange") for prompt in prompts[:number]]
    return [(prompt, parse_prompt(prompt, "full")) for prompt in prompts]


def two_toy_prompts(number: int, seed: int) -> Prompts:
    """Return prompts that name all facts of two toys, of which at least one is a held-out composition."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, "pair", split="withheld", seconds=2.0, count="two") for _ in range(number)]
    return [(caption_scene(scene, "plain", rng, complete=True), scene) for scene in scenes]


if __name__ == "__main__":
    main()
