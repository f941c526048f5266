"""Score a toybox model on held-out prompts, by judging the pixels of its videos.

    python examples/toybox_page.py --num-prompts 36 --out build/page
    python examples/toybox_page.py --grammar mixed --num-prompts 36
    python examples/toybox_page.py --prompts examples/free_prompts.txt

Writes `page.png` (first, middle and last frame of every video, under its prompt and its wrong facts), `page.md` (each
prompt and its wrong facts) and `page.json` (the fraction of correct facts, with 95% intervals).
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cogvideox import CogVideoX, Video
from cogvideox.errors import PromptError
from cogvideox.evaluation.toybox.prompts import FactPrompt, held_out_prompts
from cogvideox.toybox.captions.caption import parse_prompt, sample_prompts
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clip
from cogvideox.video.sheet import ends_and_middle, side_by_side

COLUMNS = 4
GRAMMARS = {
    "core": "one toy in a small world",
    "full": "all words of the judge",
    "mixed": "one toy, word order and two toys in turn",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toybox", help="a shipped model or a model folder")
    parser.add_argument("--num-prompts", type=int, default=36)
    parser.add_argument("--prompts", type=Path, help="a text file with one prompt per line, instead of sampled prompts")
    kinds = "; ".join(f"{name}: {content}" for name, content in GRAMMARS.items())
    parser.add_argument("--grammar", default="core", choices=GRAMMARS, help=f"sampled prompts; {kinds}")
    parser.add_argument("--split", default="held_out", choices=("held_out", "training", "all"))
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts; video i has seed + i")
    parser.add_argument("--out", type=Path, default=Path("build/page"))
    options = parser.parse_args()
    if options.prompts is not None:
        for name in ("num_prompts", "grammar", "split"):
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} cannot be combined with --prompts: leave one of them out")
        options.grammar, options.split = "full", None  # free prompts may describe anything
    elif options.grammar == "mixed" and options.split != "held_out":
        parser.error(f"--split {options.split} cannot be combined with --grammar mixed, whose prompts are held out")

    prompts, pipe = choose_prompts(options), CogVideoX.from_pretrained(options.model)
    spec = pipe.settings
    videos, verdicts = [], []
    for i, prompt in enumerate(prompts):
        frames = generate(pipe, prompt.prompt, options.seed + i)
        shown = np.zeros((spec.num_frames, spec.height, spec.width, 3), np.uint8) if frames is None else frames
        verdict = judge_clip(torch.from_numpy(shown), prompt.facts, prompt.grammar)
        # All facts of a rejected prompt are wrong, although the judge might accept the black background.
        verdicts.append(dict.fromkeys(verdict, False) if frames is None else verdict)
        videos.append(shown)

    options.out.mkdir(parents=True, exist_ok=True)
    labels, rows = [], ["| | prompt | wrong facts |", "|---|---|---|"]
    for i, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True), start=1):
        wrong = wrong_facts(verdict)
        labels.append(f"{i}. {prompt.prompt}" + ("" if all(verdict.values()) else f" (wrong: {wrong})"))
        rows.append(f"| {i} | {prompt.prompt} | {wrong} |")
    sheet = side_by_side(np.stack(videos)[:, ends_and_middle(spec.num_frames)], COLUMNS, labels)
    Video(sheet[None], fps=1.0).save(options.out / "page.png")
    (options.out / "page.md").write_text("\n".join(rows) + "\n")
    scores = fact_accuracies(verdicts)
    report = {name: str(value) for name, value in vars(options).items() if value is not None}
    report |= {"num_prompts": len(prompts)}
    report["scores"] = {fact: asdict(score) for fact, score in scores.items()}
    (options.out / "page.json").write_text(json.dumps(report, indent=2) + "\n")
    for fact, score in scores.items():
        low, high = score.interval
        print(f"{fact:<12} {score.value:7.1%}  (95 %: {low:.1%} to {high:.1%})")


def choose_prompts(options: argparse.Namespace) -> list[FactPrompt]:
    """Return the prompts of a file, or sampled prompts."""
    if options.prompts is not None:
        lines = [line for line in options.prompts.read_text().splitlines() if line.strip()]
    elif options.grammar == "mixed":
        sets = held_out_prompts(-(-options.num_prompts // 3), options.seed).values()
        return [prompt for one_of_each in zip(*sets, strict=True) for prompt in one_of_each][: options.num_prompts]
    else:
        sampled = sample_prompts(options.num_prompts, options.seed, split=options.split, grammar=options.grammar)
        lines = [prompt for prompt, _ in sampled]
    return [FactPrompt(line, parse_prompt(line, options.grammar), options.grammar) for line in lines]


def generate(pipe: CogVideoX, prompt: str, seed: int) -> np.ndarray | None:
    """Generate a video. Return None for a prompt that is empty or too long for the model.

    Raises:
        UserError: the video cannot be generated for another reason.
    """
    try:
        return pipe.generate(prompt, seed=seed).frames
    except PromptError as error:
        print(error)
        return None


def wrong_facts(verdict: Mapping[str, bool]) -> str:
    """List the wrong facts of a video, for the page."""
    if not verdict:
        return "(no fact that the judge knows)"
    return ", ".join(fact for fact, is_correct in verdict.items() if not is_correct) or "none"


if __name__ == "__main__":
    main()
