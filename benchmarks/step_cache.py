"""Faster generation that changes the video: how much faster, and how far from the video of all steps of the same seed.

python benchmarks/step_cache.py --out benchmarks/results/step-cache.json    # some minutes on two cores

Each way makes every video once, prompt by prompt in turn with the reference; a ratio is the median of their ratios, of
whole generations. `psnr_db` is the median over the videos, `lowest_db` that of the worst one, and `computed` is the
share of steps in which the transformer was called.
"""

import math
import statistics
import time
from typing import Any

import torch
from common import Report, arguments, finish, start
from generation import psnr

from cogvideox import CogVideoX
from cogvideox.generation import cache
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
Ways = dict[str, dict[str, Any]]


def ways_of(sampler: str, num_steps: int) -> Ways:
    """The reference, and what is compared with it."""
    base = {"sampler": sampler, "num_inference_steps": num_steps}
    budgets = (0.005, 0.01, 0.02, 0.03, 0.05) if sampler == "ddim" else (0.005, 0.01, 0.02)
    ways: Ways = {"all steps": base}
    ways |= {f"cache {budget:g}": {**base, "cache": budget} for budget in budgets}
    fewer = [num_steps * share // 100 for share in (75, 50, 40, 32)]
    ways |= {f"{fewer_steps} steps": {**base, "num_inference_steps": fewer_steps} for fewer_steps in fewer}
    if sampler == "ddim" and num_steps == 25:
        ways |= {f"guidance in {a:g} to {b:g}": {**base, "guidance_interval": (a, b)} for a, b in ((0, 0.5), (0, 0.8))}
        ways["float8"] = base
    return ways


def measure(pipes: dict[bool, CogVideoX], ways: Ways, prompts: tuple[str, ...], seeds: range, task: str) -> Report:
    """A row of the report."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    likeness: dict[str, list[float]] = {name: [] for name in ways}
    computed: dict[str, list[float]] = {name: [] for name in ways}
    for prompt in prompts:
        for seed in seeds:
            reference = None
            for name, values in ways.items():
                COUNT.clear()
                began = time.perf_counter()
                video = pipes[name == "float8"].generate(prompt, seed=seed, output="float", **values)
                times[name].append(time.perf_counter() - began)
                reference = video.frames if reference is None else reference
                likeness[name].append(psnr(video.frames, reference))
                if COUNT:
                    computed[name].append(COUNT[0].num_computed / values["num_inference_steps"])
    first = times["all steps"]
    told: dict[str, Any] = {}
    for name, seconds in times.items():
        told[name] = {"median": statistics.median(seconds), "seconds": seconds}
        # Without arithmetic in 8 bits its time says nothing.
        if name != "float8" or torch.cuda.is_available():
            told[name]["ratio"] = statistics.median(a / b for a, b in zip(first, seconds))
        if name != "all steps":
            close = statistics.median(likeness[name]), min(likeness[name])
            # None is that the video is the same; JSON knows no infinity.
            told[name] |= dict(zip(("psnr_db", "lowest_db"), (x if math.isfinite(x) else None for x in close)))
        if computed[name]:
            told[name]["computed"] = statistics.mean(computed[name])
    return {"task": task, "reference": "all steps", "ways": told}


COUNT: list[cache.Cached] = []


class Counted(cache.Cached):
    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        COUNT.append(self)


def main() -> None:
    parser = arguments(__doc__, "step-cache", rounds=2, seconds=600)
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--samplers", nargs="+", default=["ddim", "dpm++"])
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of them")
    options = parser.parse_args()
    start(options)
    from cogvideox.generation import denoise

    denoise.Cached = Counted
    pipes = {rounded: CogVideoX.from_pretrained("toybox") for rounded in (False, True)}
    to_float8(pipes[True].bundle.transformer)
    pipes[False].generate(PROMPTS[0], num_inference_steps=2, seed=0)
    prompts = PROMPTS[: 1 if options.tiny else options.prompts]
    seeds = range(options.seed, options.seed + (1 if options.tiny else options.rounds))
    rows = []
    for sampler in options.samplers:
        for num_steps in [4] if options.tiny else options.steps:
            task = f"generation, toybox, {sampler}, {num_steps} steps"
            rows.append(measure(pipes, ways_of(sampler, num_steps), prompts, seeds, task))
    finish("step_cache", {"prompts": list(prompts), "seeds": list(seeds), "weights": "toybox"}, rows, options.out)


if __name__ == "__main__":
    main()
