"""Faster generation that changes the video: how much faster, and how far from the video of all steps of the same seed.

python benchmarks/step_cache.py --threads 1 --samplers ddim --out benchmarks/results/step-cache-ddim.json

Each video is made once in every way, one way after the other, beginning with the reference; a ratio is the median of
the videos' ratios, of whole generations. On one thread of a CPU, seconds are those of the processor, which other
programs disturb less than they do a clock. `psnr_db` is the median over the videos, `lowest_db` that of the worst one,
and `computed` is the share of the transformer's work that was done.

What a video gave is written to a file beside the report at once. Stopped at any time, or by itself after the first
video that ends beyond `--seconds`, it goes on from there when run again; the report takes the place of that file.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import Report, arguments, finish, processor_clock, psnr, start

from cogvideox import CogVideoX
from cogvideox.generation.sampling import denoise, step_cache
from cogvideox.transformer.float8 import to_float8

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
FEWER = (80, 65, 50, 40, 30, 20)  # per cent of the steps
INTERVALS = ((0, 0.8), (0, 0.6), (0, 0.4), (0, 0.2))
Ways = dict[str, dict[str, Any]]
Video = dict[str, Any]
"""Prompt and seed of one video, and what each way gave: {"seconds", "psnr_db", "computed"}."""


def ways_of(sampler: str, num_steps: int) -> Ways:
    """The reference, and what is compared with it."""
    base = {"sampler": sampler, "num_inference_steps": num_steps}
    ways: Ways = {REFERENCE: base}
    ways |= {f"cache {budget:g}": {**base, "cache": budget} for budget in BUDGETS[sampler]}
    fewer = [max(num_steps * share // 100, 1) for share in FEWER]
    ways |= {f"{number} steps": {**base, "num_inference_steps": number} for number in fewer}
    ways |= {f"guidance in {a:g} to {b:g}": {**base, "guidance_interval": (a, b)} for a, b in INTERVALS}
    return {**ways, "float8": base}


def make(pipes: dict[bool, CogVideoX], ways: Ways, prompt: str, seed: int) -> Video:
    """One video in every way."""
    reference, told = None, {}
    for name, values in ways.items():
        COUNT.clear()
        began = processor_clock()
        video = pipes[name == "float8"].generate(prompt, seed=seed, output="float", **values)
        told[name] = {"seconds": processor_clock() - began, "computed": computed(values, ways[REFERENCE])}
        reference = video.frames if reference is None else reference
        close = psnr(video.frames, reference)
        told[name]["psnr_db"] = close if math.isfinite(close) else None  # the same video; JSON knows no infinity
    return {"prompt": prompt, "seed": seed, "ways": told}


def computed(values: dict[str, Any], reference: dict[str, Any]) -> float:
    """The share of the transformer's work: a step without guidance is half a step."""
    steps, whole = values["num_inference_steps"], reference["num_inference_steps"]
    first, last = (round(fraction * steps) for fraction in values.get("guidance_interval", (0, 1)))
    done = COUNT[0].num_computed if COUNT else (steps + last - first) / 2
    return done / whole


def all_videos(
    pipes: dict[bool, CogVideoX], ways: Ways, wanted: list[tuple[str, int]], parts: Path, until: float
) -> Iterator[Video]:
    """Every video, those that are in the file of parts already from there.

    Raises:
        SystemExit: the time is over.
    """
    lines = parts.read_text(encoding="utf-8").splitlines() if parts.exists() else []
    known = {(one["prompt"], one["seed"]): one for one in map(json.loads, lines) if one["ways"].keys() == ways.keys()}
    for number, (prompt, seed) in enumerate(wanted, start=1):
        if (prompt, seed) not in known:
            known[prompt, seed] = make(pipes, ways, prompt, seed)
            with parts.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[prompt, seed]) + "\n")
            if number < len(wanted) and time.perf_counter() > until:
                raise SystemExit(f"{number} of {len(wanted)} videos are in {parts}: run it again to go on")
        yield known[prompt, seed]


def summed_up(videos: list[Video], task: str) -> Report:
    """A row of the report."""
    told: dict[str, Any] = {}
    for name in videos[0]["ways"]:
        ways = [video["ways"][name] for video in videos]
        times = [way["seconds"] for way in ways]
        told[name] = {"median": statistics.median(times)}
        # Without arithmetic in 8 bits its time says nothing.
        if name != "float8" or torch.cuda.is_available():
            ratios = (video["ways"][REFERENCE]["seconds"] / taken for video, taken in zip(videos, times))
            told[name]["ratio"] = statistics.median(ratios)
        if name != REFERENCE:
            likeness = [math.inf if way["psnr_db"] is None else way["psnr_db"] for way in ways]
            close = statistics.median(likeness), min(likeness)
            told[name] |= dict(zip(("psnr_db", "lowest_db"), (x if math.isfinite(x) else None for x in close)))
        told[name] |= {"computed": statistics.mean(way["computed"] for way in ways), "seconds": times}
    return {"task": task, "reference": REFERENCE, "ways": told}


COUNT: list[step_cache.StepCache] = []


class Counted(step_cache.StepCache):
    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        COUNT.append(self)


def main() -> None:
    parser = arguments(__doc__, "step-cache", rounds=2, seconds=math.inf)
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--samplers", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of them")
    options = parser.parse_args()
    start(options)
    denoise.StepCache = Counted
    until = time.perf_counter() + options.seconds
    pipes = {rounded: CogVideoX.from_pretrained("toybox") for rounded in (False, True)}
    to_float8(pipes[True].bundle.transformer)
    prompts = PROMPTS[: 2 if options.tiny else options.prompts]
    seeds = range(options.seed, options.seed + (1 if options.tiny else options.rounds))
    wanted = [(prompt, seed) for prompt in prompts for seed in seeds]
    for pipe in pipes.values():
        pipe.generate(PROMPTS[0], num_inference_steps=2, seed=0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows, files = [], []
    for sampler in options.samplers:
        for num_steps in [10] if options.tiny else options.steps:
            files.append(options.out.with_suffix(f".{sampler}-{num_steps}.parts"))
            videos = list(all_videos(pipes, ways_of(sampler, num_steps), wanted, files[-1], until))
            rows.append(summed_up(videos, f"generation, toybox, {sampler}, {num_steps} steps"))
    finish("step_cache", {"prompts": list(prompts), "seeds": list(seeds), "weights": "toybox"}, rows, options.out)
    for file in files:
        file.unlink()


if __name__ == "__main__":
    main()
