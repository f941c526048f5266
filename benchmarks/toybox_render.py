"""Throughput of sampling and rendering toybox clips of 9x64x64 in both grammars.

python benchmarks/toybox_render.py --out build/toybox_render.json
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from common import cpu_name, write_json

from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.grammar import GRAMMARS
from cogvideox.toybox.scenes.sampler import sample_scene


def measure(grammar: str, num_clips: int, repeats: int) -> dict[str, float]:
    """Return medians over repeats with different clips. CPU times hardly depend on other programs."""
    scenes = [sample_scene(seed, grammar) for seed in range(num_clips)]
    render_scenes(scenes)
    rows = []
    for repeat in range(1, repeats + 1):
        seeds = range(repeat * num_clips, (repeat + 1) * num_clips)
        start = time.process_time()
        scenes = [sample_scene(seed, grammar) for seed in seeds]
        sampled, wall = time.process_time(), time.perf_counter()
        render_scenes(scenes)
        rows.append((sampled - start, time.perf_counter() - wall, time.process_time() - sampled))
    sampling, wall, rendering = (statistics.median(column) for column in zip(*rows))
    return {
        "clips_per_second": round(num_clips / wall, 1),
        "clips_per_processor_second": round(num_clips / rendering, 1),
        "milliseconds_to_draw_a_scene": round(1e3 * sampling / num_clips, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-clips", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    report = {
        "clip": "9x64x64",
        "num_clips": options.num_clips,
        "repeats": options.repeats,
        "threads": options.num_threads,
        "processor": cpu_name(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "grammars": {name: measure(name, options.num_clips, options.repeats) for name in GRAMMARS},
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.out is not None:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
