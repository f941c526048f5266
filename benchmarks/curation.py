"""Cost of each stage and signal of curation, and time and memory of a curation of many rows with random values.

python benchmarks/curation.py --out build/curation.json
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import cpu_name, write_json

from cogvideox.curation import manifest
from cogvideox.curation.assemble import write_manifest
from cogvideox.curation.files import RawFile
from cogvideox.curation.funnel.page import write_page
from cogvideox.curation.manifest import MANIFEST
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.results import RESULTS, Result, ResultStore
from cogvideox.curation.run import choose_signals, curate
from cogvideox.curation.stage import Column
from cogvideox.curation.stages.cut import Cut
from cogvideox.curation.stages.split import CLIP_COLUMNS
from cogvideox.curation.work import Work
from cogvideox.toybox.effects import camera
from cogvideox.video import io

FPS = 16.0
SCALE_SIGNALS = ("motion", "phash", "picture", "stillness")


def measure_costs(num_clips: int, num_frames: int, height: int) -> dict[str, float]:
    """Return the processor seconds per second of video of each stage and signal whose models are installed."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        size = height, height * 3 // 2
        for seed in range(num_clips):
            canvas = camera.texture(seed, (size[0] + num_frames, size[1] + 2 * num_frames))
            io.write(raw / f"{seed}.mp4", camera.film(canvas, camera.pan(num_frames, (1.0, 0.4)), size), FPS)
        recipe = Recipe(cut=Cut("encode"))
        curate(raw, Path(folder) / "warm", recipe)  # packages and models are loaded
        wall, cpu_start = time.perf_counter(), time.process_time()
        progress = curate(raw, Path(folder) / "out", recipe).progress
        cores = (time.process_time() - cpu_start) / (time.perf_counter() - wall)  # stages are timed by the clock
    seconds = num_clips * num_frames / FPS / cores
    return {name: round(elapsed / seconds, 4) for name, elapsed in sorted(progress.seconds.items())}


def measure_scale(num_rows: int) -> dict[str, float]:
    """Return processor seconds of each part of a curation of this many clips, and peak memory. Use a new process."""
    recipe = Recipe(signals={name: {} for name in SCALE_SIGNALS})
    signals = choose_signals(recipe)[0]
    stages = [recipe.probe, recipe.split, recipe.cut, *signals.values()]
    rng = np.random.default_rng(0)
    files = [RawFile(Path(f"raw/{row}.mp4"), f"{row}.mp4", 1000, f"{row:024x}", None) for row in range(num_rows)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        marks = [time.process_time()]
        store = ResultStore(output, stages)
        for file in files:
            clip = _values(CLIP_COLUMNS, rng) | {"index": 0, "start": 0.0, "end": 6.0, "seconds": 6.0}
            probed = _values(recipe.probe.columns, rng) | {"source_id": file.key, "file_seconds": 6.0}
            id = manifest.clip_id(file.key, 0.0, 6.0)
            store.add([Result("probe", file.key, probed), Result("split", file.key, {"clips": [clip]})])
            store.add([Result(stage.name, id, _values(stage.columns, rng)) for stage in signals.values()])
            store.add([Result("cut", id, {})])
        store.compact()
        marks.append(time.process_time())
        store = ResultStore(output, stages)
        work = Work(files, store, output, recipe, [recipe.cut.name, *signals], split=True)
        if work.next_batch() is not None:
            raise RuntimeError("work is left, although all results were written")
        marks.append(time.process_time())
        write_manifest(files, store, recipe, list(signals.values()), output / "raw", output)
        marks.append(time.process_time())
        write_page(manifest.read_manifest(output, manifest.scalar_columns(output)), None, output)
        marks.append(time.process_time())
        results = sum(path.stat().st_size for path in (output / RESULTS).rglob("*.parquet"))
        names = ("write_results", "find_nothing_left", "manifest", "funnel_page")
        return {
            **{f"{name}_seconds": round(after - before, 2) for name, before, after in zip(names, marks, marks[1:])},
            "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e6),
            "manifest_megabytes": round((output / MANIFEST).stat().st_size / 1e6, 2),
            "result_bytes_per_row": round(results / num_rows),
        }


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _values(columns: tuple[Column, ...], rng: np.random.Generator) -> dict[str, Any]:
    random_values = {
        "float": lambda: float(rng.random()),
        "int": lambda: 64,
        "bool": lambda: False,
        "str": lambda: rng.bytes(32).hex(),
        "floats": lambda: rng.random(6).tolist(),
        "ints": lambda: [1],
    }
    return {column.name: random_values[column.type]() for column in columns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000, 100_000], help="numbers of rows")
    parser.add_argument("--num-clips", type=int, default=2, help="clips to measure the costs with; 0 skips the costs")
    parser.add_argument("--num-frames", type=int, default=48, help=f"frames of each clip, at {FPS:g} fps")
    parser.add_argument("--height", type=int, default=480, help="height of the clips")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    scale = {}
    for rows in options.rows:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # for the peak memory of each
            scale[str(rows)] = pool.submit(measure_scale, rows).result()
    costs = measure_costs(options.num_clips, options.num_frames, options.height) if options.num_clips else {}
    report = {
        "processor": cpu_name(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "seconds_per_second_of_video": costs,
        "scale": scale,
    }
    print(json.dumps(report, indent=2))
    if options.out is not None:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
