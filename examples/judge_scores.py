"""Accuracy of the judge on clips with known facts, and on clips paired with other clips' prompts.

    python examples/judge_scores.py --grammar full --num-clips 1000

Prints, for each fact, the fraction of correct verdicts on renders, on renders with noise, and with shuffled prompts.
"""

import argparse

import torch

from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.sampler import sample_scene

BATCH_SIZE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grammar", default="full", choices=("core", "full"))
    parser.add_argument("--num-clips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1_000_000, help="seed of the first scene")
    parser.add_argument("--noise", type=float, default=0.03, help="standard deviation, for pixels in 0..1")
    options = parser.parse_args()

    scenes = [sample_scene(options.seed + i, options.grammar) for i in range(options.num_clips)]
    generator = torch.Generator().manual_seed(0)
    verdicts = {"true": [], "noisy": [], "shuffled": []}
    for start in range(0, len(scenes), BATCH_SIZE):
        batch = scenes[start : start + BATCH_SIZE]
        clips = render_scenes(batch)
        noise = 255 * options.noise * torch.randn(clips.shape, generator=generator)
        noisy = (clips + noise).round().clamp(0, 255).to(torch.uint8)
        verdicts["true"] += judge_clips(clips, batch)
        verdicts["noisy"] += judge_clips(noisy, batch)
        verdicts["shuffled"] += judge_clips(clips, batch[1:] + batch[:1])
    scores = {kind: fact_accuracies(rows) for kind, rows in verdicts.items()}
    print(f"| fact | {' | '.join(scores)} |")
    print("|---|" + "---|" * len(scores))
    for fact in scores["true"]:
        print(f"| {fact} | " + " | ".join(f"{100 * score[fact].value:.1f} %" for score in scores.values()) + " |")


if __name__ == "__main__":
    main()
