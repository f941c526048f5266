"""Approximate acceleration of generation: speed-up, and PSNR to the video without acceleration and with the same seed.

python benchmarks/step_cache.py --threads 1 --samplers ddim --out benchmarks/results/step-cache-ddim.json

Each video is generated once with every variant, one after the other, starting with the reference. `ratio` is the median
speed-up of end-to-end times over the videos. On one CPU thread, times are CPU time, which other programs disturb less.
`psnr_db` is the median over the videos, `lowest_db` the minimum, and `computed` the fraction of transformer calls that
were computed.

The result of each video is appended to a file next to the report. After an interruption, or when the time limit
`--seconds` is reached, the same command continues from this file; the file is deleted at the end.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import Report, apply_options, cpu_clock, option_parser, psnr, write_report

from cogvideox import CogVideoX
from cogvideox.generation.sampling import denoise, step_cache
from cogvideox.transformer.acceleration.float8 import to_float8

PROMPTS = (
    "a large red ball moves right on a white background",
    "a small blue cube drifts up on a pink floor",
    "a purple cone stays still on a gray surface",
    "a large green cube moves left on a black background",
    "a small yellow ball moves down on a gray floor",
    "a large orange cone moves up on a white floor",
    "a small green ball stays still on a pink background",
    "a large blue cube moves right on a brown surface",
)
REFERENCE = "all steps"
BUDGETS = {"ddim": (0.002, 0.005, 0.01, 0.02, 0.05, 0.1), "dpm++": (0.005, 0.01, 0.015, 0.02, 0.03, 0.05)}
FEWER = (80, 65, 50, 40, 30, 20)  # percent of the steps
INTERVALS = ((0, 0.8), (0, 0.6), (0, 0.4), (0, 0.2))
Variants = dict[str, dict[str, Any]]
Video = dict[str, Any]
"""Prompt and seed of one video, and the results of each variant: {"seconds", "psnr_db", "computed"}."""


def variants_of(sampler: str, num_steps: int) -> Variants:
    """Return the keyword arguments of the reference and of the variants compared to it."""
    base = {"sampler": sampler, "num_inference_steps": num_steps}
    variants: Variants = {REFERENCE: base}
    variants |= {f"cache {budget:g}": {**base, "cache": budget} for budget in BUDGETS[sampler]}
    fewer = [max(num_steps * percent // 100, 1) for percent in FEWER]
    variants |= {f"{number} steps": {**base, "num_inference_steps": number} for number in fewer}
    variants |= {f"guidance in {a:g} to {b:g}": {**base, "guidance_interval": (a, b)} for a, b in INTERVALS}
    return {**variants, "float8": base}


def generate(pipes: dict[bool, CogVideoX], variants: Variants, prompt: str, seed: int) -> Video:
    """Generate a video with every variant."""
    reference, results = None, {}
    for name, values in variants.items():
        COUNT.clear()
        start = cpu_clock()
        video = pipes[name == "float8"].generate(prompt, seed=seed, output="float", **values)
        results[name] = {"seconds": cpu_clock() - start, "computed": computed_fraction(values, variants[REFERENCE])}
        reference = video.frames if reference is None else reference
        similarity = psnr(video.frames, reference)
        results[name]["psnr_db"] = similarity if math.isfinite(similarity) else None  # JSON has no infinity
    return {"prompt": prompt, "seed": seed, "variants": results}


def computed_fraction(values: dict[str, Any], reference: dict[str, Any]) -> float:
    """Return the fraction of transformer calls that were computed; a step without guidance counts half."""
    steps = values["num_inference_steps"]
    first, last = (round(fraction * steps) for fraction in values.get("guidance_interval", (0, 1)))
    computed = COUNT[0].num_computed if COUNT else (steps + last - first) / 2
    return computed / reference["num_inference_steps"]


def iter_videos(
    pipes: dict[bool, CogVideoX], variants: Variants, requests: list[tuple[str, int]], parts: Path, deadline: float
) -> Iterator[Video]:
    """Yield the result of every (prompt, seed), from the file `parts` if it contains it.

    Raises:
        SystemExit: the time limit is reached.
    """
    lines = parts.read_text(encoding="utf-8").splitlines() if parts.exists() else []
    videos = [video for video in map(json.loads, lines) if video["variants"].keys() == variants.keys()]
    results = {(video["prompt"], video["seed"]): video for video in videos}
    for number, (prompt, seed) in enumerate(requests, start=1):
        if (prompt, seed) not in results:
            results[prompt, seed] = generate(pipes, variants, prompt, seed)
            with parts.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[prompt, seed]) + "\n")
            if number < len(requests) and time.perf_counter() > deadline:
                raise SystemExit(
                    f"{number} of {len(requests)} videos are in {parts}: run the same command again to continue"
                )
        yield results[prompt, seed]


def summarize(videos: list[Video], task: str) -> Report:
    """Make a row of the report from the results of all videos."""
    results: dict[str, Any] = {}
    for name in videos[0]["variants"]:
        variants = [video["variants"][name] for video in videos]
        times = [variant["seconds"] for variant in variants]
        results[name] = {"median": statistics.median(times)}
        # Without hardware support for float8, its time is meaningless.
        if name != "float8" or torch.cuda.is_available():
            ratios = (video["variants"][REFERENCE]["seconds"] / seconds for video, seconds in zip(videos, times))
            results[name]["ratio"] = statistics.median(ratios)
        if name != REFERENCE:
            similarities = [math.inf if variant["psnr_db"] is None else variant["psnr_db"] for variant in variants]
            scores = {"psnr_db": statistics.median(similarities), "lowest_db": min(similarities)}
            results[name] |= {column: score if math.isfinite(score) else None for column, score in scores.items()}
        results[name] |= {"computed": statistics.mean(variant["computed"] for variant in variants), "seconds": times}
    return {"task": task, "reference": REFERENCE, "variants": results}


COUNT: list[step_cache.StepCache] = []


class CountingCache(step_cache.StepCache):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        COUNT.append(self)


def main() -> None:
    parser = option_parser(__doc__, "step-cache", rounds=2, seconds=math.inf)
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--samplers", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="number of prompts")
    options = parser.parse_args()
    apply_options(options)
    denoise.StepCache = CountingCache
    deadline = time.perf_counter() + options.seconds
    pipes = {is_float8: CogVideoX.from_pretrained("toybox") for is_float8 in (False, True)}
    to_float8(pipes[True].model.transformer)
    prompts = PROMPTS[: 2 if options.tiny else options.prompts]
    seeds = range(options.seed, options.seed + (1 if options.tiny else options.rounds))
    requests = [(prompt, seed) for prompt in prompts for seed in seeds]
    for pipe in pipes.values():
        pipe.generate(PROMPTS[0], num_inference_steps=2, seed=0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows, files = [], []
    for sampler in options.samplers:
        for num_steps in [10] if options.tiny else options.steps:
            files.append(options.out.with_suffix(f".{sampler}-{num_steps}.parts"))
            videos = list(iter_videos(pipes, variants_of(sampler, num_steps), requests, files[-1], deadline))
            rows.append(summarize(videos, f"generation, toybox, {sampler}, {num_steps} steps"))
    write_report("step_cache", {"prompts": list(prompts), "seeds": list(seeds), "weights": "toybox"}, rows, options.out)
    for file in files:
        file.unlink()


if __name__ == "__main__":
    main()
