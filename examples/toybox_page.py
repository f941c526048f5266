"""Score a toybox model on held-out prompts, by judging the pixels of its videos.

    python examples/toybox_page.py --num-prompts 36 --out build/page
    python examples/toybox_page.py --prompts examples/free_prompts.txt

Writes `page.png` (first, middle and last frame of every video, four videos per row), `page.md` (each prompt and its
wrong facts) and `page.json` (the fraction of correct facts, with 95% intervals).
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cogvideox import CogVideoX, Video
from cogvideox.errors import UserError
from cogvideox.toybox.captions.caption import parse_prompt, sample_prompts
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.video.sheet import ends_and_middle, side_by_side

COLUMNS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toybox", help="a shipped model or a model folder")
    parser.add_argument("--num-prompts", type=int, default=36)
    parser.add_argument("--prompts", type=Path, help="a text file with one prompt per line, instead of sampled prompts")
    parser.add_argument("--grammar", default="core", choices=("core", "full"), help="grammar of sampled prompts")
    parser.add_argument("--split", default="held_out", choices=("held_out", "training", "all"))
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts; video i has seed + i")
    parser.add_argument("--out", type=Path, default=Path("build/page"))
    options = parser.parse_args()
    if options.prompts is not None:
        for name in ("num_prompts", "grammar", "split"):
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} cannot be combined with --prompts: leave one of them out")
        options.grammar, options.split = "full", None  # free prompts may describe anything

    pipe = CogVideoX.from_pretrained(options.model)
    if options.prompts is not None:
        prompts = [line for line in options.prompts.read_text().splitlines() if line.strip()]
    else:
        sampled = sample_prompts(options.num_prompts, options.seed, split=options.split, grammar=options.grammar)
        prompts = [prompt for prompt, _ in sampled]
    results = [generate(pipe, prompt, options.seed + i) for i, prompt in enumerate(prompts)]
    spec = pipe.settings
    black = np.zeros((spec.num_frames, spec.height, spec.width, 3), np.uint8)
    videos = np.stack([black if video is None else video for video in results])
    scenes = [parse_prompt(prompt, options.grammar) for prompt in prompts]
    verdicts = judge_clips(torch.from_numpy(videos), scenes, options.grammar)
    # All facts of a rejected prompt are wrong, although the judge might accept the black background.
    verdicts = [
        dict.fromkeys(verdict, False) if video is None else verdict for video, verdict in zip(results, verdicts)
    ]

    options.out.mkdir(parents=True, exist_ok=True)
    labels = [f"{i}. {prompt}" for i, prompt in enumerate(prompts, start=1)]
    sheet = side_by_side(videos[:, ends_and_middle(spec.num_frames)], COLUMNS, labels)
    Video(sheet[None], fps=1.0).save(options.out / "page.png")
    rows = [
        f"| {i} | {prompt} | {wrong_facts(verdict)} |"
        for i, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True), start=1)
    ]
    (options.out / "page.md").write_text("\n".join(["| | prompt | wrong facts |", "|---|---|---|", *rows]) + "\n")
    scores = fact_accuracies(verdicts)
    report = {name: str(value) for name, value in vars(options).items() if value is not None}
    report |= {"num_prompts": len(prompts)}
    report["scores"] = {fact: asdict(score) for fact, score in scores.items()}
    (options.out / "page.json").write_text(json.dumps(report, indent=2) + "\n")
    for fact, score in scores.items():
        low, high = score.interval
        print(f"{fact:<12} {score.value:7.1%}  (95 %: {low:.1%} to {high:.1%})")


def generate(pipe: CogVideoX, prompt: str, seed: int) -> np.ndarray | None:
    """Generate a video. Return None for a prompt that the model rejects, such as one that is too long."""
    try:
        return pipe.generate(prompt, seed=seed).frames
    except UserError as error:
        print(error)
        return None


def wrong_facts(verdict: Mapping[str, bool]) -> str:
    """List the wrong facts of a video, for the page."""
    if not verdict:
        return "(no fact that the judge knows)"
    return ", ".join(fact for fact, is_correct in verdict.items() if not is_correct) or "none"


if __name__ == "__main__":
    main()
