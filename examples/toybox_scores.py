"""Compare toybox models on three sets of held-out prompts, judged from the pixels.

    python examples/toybox_scores.py --models toybox runs/toybox-pretrain-final/model --num-prompts 300

The sets are those of the toybox suite (`cogvideox.evaluation.toybox.prompts`). `cogvideox evaluate MODEL --suite toybox
-o OUT` scores them from video files, with intervals and a report.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from cogvideox import CogVideoX
from cogvideox.errors import UserError
from cogvideox.evaluation.toybox.prompts import FactPrompt, held_out_prompts
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["toybox"], help="shipped models or model folders")
    parser.add_argument("--num-prompts", type=int, default=300, help="number of prompts of each set")
    parser.add_argument("--seed", type=int, default=100, help="seed of the prompts; video i has seed + i")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the model's")
    options = parser.parse_args()
    sets = held_out_prompts(options.num_prompts, options.seed)
    print(f"| model | set | {' | '.join(('color', 'shape', 'size', 'motion', 'background', 'count', 'all'))} |")
    print(f"|{'---|' * 9}")
    for name in options.models:
        pipe = CogVideoX.from_pretrained(name)
        for kind, prompts in sets.items():
            scores = fact_accuracies(judge_prompts(pipe, prompts, options.seed, options.steps))
            cells = [
                f"{scores[fact].value:.1%}" if fact in scores else ""
                for fact in ("color", "shape", "size", "motion", "background", "count", "all")
            ]
            print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


def judge_prompts(
    pipe: CogVideoX, prompts: Sequence[FactPrompt], seed: int, steps: int | None
) -> list[dict[str, bool]]:
    """Generate and judge a video for each prompt. For a prompt that the model rejects, all facts are wrong."""
    verdicts = []
    for i, prompt in enumerate(prompts):
        spec = pipe.settings
        frames, generated = np.zeros((spec.num_frames, spec.height, spec.width, 3), np.uint8), True
        try:
            frames = pipe.generate(prompt.prompt, seed=seed + i, num_inference_steps=steps).frames
        except UserError:
            generated = False
        verdict = judge_clip(torch.from_numpy(frames), prompt.facts, prompt.grammar)
        verdicts.append({fact: correct and generated for fact, correct in verdict.items()})
    return verdicts


if __name__ == "__main__":
    main()
