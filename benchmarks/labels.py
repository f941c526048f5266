"""How well the negative labels are found: on renders with known labels, on real clips, and from few annotations.

    python benchmarks/labels.py render --footage FOOTAGE --out DATA      # renders, and their signals
    python benchmarks/labels.py real --clips CLIPS --out DATA            # signals of real clips
    python benchmarks/labels.py evaluate --out DATA --json REPORT --chart CHART

DATA is a folder outside the repository; what is in it is not computed again. FOOTAGE holds the videos and photographs
that `label_families.families` names, CLIPS those that `REAL_CLIPS` names by SHA-256.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from common import ROOT  # noqa: F401 - puts the checkout on the path
from label_degradations import encode
from label_families import families
from label_renders import NAMES, Generator, Render

from cogvideox.curation.recipe import Recipe
from cogvideox.curation.run import curate
from cogvideox.curation.stages.split import Split

CHUNKS: list[dict[str, int]] = [  # number of clips of each family, see `label_families`
    *[{"train": 150, "test": 50}] * 4,
    {"train": 200},
    {"wide": 40},
    {"fresh": 40},
    {"wide": 40},
    {"wide": 130},
    {"fresh": 80},
    *[{"varied": 150}] * 2,
    {"broad": 220},
]
FIRST_SEEDS = {
    "train": 0,
    **{name: (n + 1) * 10**6 for n, name in enumerate(("test", "wide", "fresh", "varied", "broad"))},
}
FIRST_HARD = 4 * 150  # clips of the family "train" from here on are hard: see `Generator`
SIGNALS = {
    **{
        name: {}
        for name in (
            "brisque",
            "defects",
            "edits",
            "faces",
            "motion",
            "picture",
            "screen",
            "stillness",
            "tags",
            "technical",
        )
    },
    "text": {"num_frames": 1},  # the clips are short, and reading takes most of the time
}
# A clip is a whole file, cuts included: the labels of what `split` misses are measured, too.
RECIPE = Recipe(
    split=Split(min_seconds=0.5, max_seconds=120.0, adaptive_threshold=1e9, min_content=255.0, dissolve_seconds=1e-3),
    signals=SIGNALS,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("render", "real", "evaluate"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the data")
    parser.add_argument("--footage", type=Path, help="folder of footage for the renders")
    parser.add_argument("--clips", type=Path, help="folder of real clips")
    parser.add_argument("--vlm", type=Path, help="folder of a video-language model to train for a few steps")
    parser.add_argument("--json", type=Path, help="report to write")
    parser.add_argument("--chart", type=Path, help="chart of the balanced accuracy by number of annotations to write")
    parser.add_argument("--chunks", type=int, nargs="+", default=list(range(len(CHUNKS))), help="chunks to render")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.step == "render":
        render(options.footage, options.out, options.chunks, options.workers)
    elif options.step == "real":
        from label_evaluation import REAL_SECONDS

        for length in REAL_SECONDS:
            recipe = replace(
                RECIPE, split=replace(RECIPE.split, max_seconds=float(length)), signals=SIGNALS | {"text": {}}
            )
            curate(options.clips, options.out / f"real{length}", recipe, workers=options.workers)
    else:
        from label_evaluation import evaluate

        evaluate(options.out, options.json, options.chart, options.vlm)


def render(footage: Path, out: Path, chunks: list[int], workers: int) -> None:
    """Render chunk by chunk, and compute the signals of each."""
    for chunk in chunks:
        folder = out / f"chunk-{chunk}"
        jobs = [
            (family, sum(sizes.get(family, 0) for sizes in CHUNKS[:chunk]) + index)
            for family, number in CHUNKS[chunk].items()
            for index in range(number)
        ]
        if not (folder / "truth.json").is_file():
            with ProcessPoolExecutor(workers, initializer=start_worker, initargs=(footage,)) as pool:
                truth = list(pool.map(write_clip, [(*job, folder / "raw") for job in jobs], chunksize=8))
            (folder / "truth.json").write_text(json.dumps(truth, indent=0))
        result = curate(folder / "raw", folder / "out", RECIPE, workers=workers)
        print(f"chunk {chunk}: {result.counts}", flush=True)


_worker: dict = {}


def start_worker(footage: Path) -> None:
    """Open the families in a worker process."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    _worker.update(families=families(footage), cache={})


def write_clip(job: tuple[str, int, Path]) -> dict:
    """Render a clip to a file, and return its truth."""
    family, index, folder = job
    folder.mkdir(parents=True, exist_ok=True)
    hard = family == "train" and index >= FIRST_HARD
    seed = FIRST_SEEDS[family] + index
    clip = Generator(_worker["families"][family], seed, _worker["cache"], hard).render()
    name = f"{family}-{index:05d}.mp4"
    write(folder / name, clip)
    return {
        "source": name,
        "side": family,
        "kind": clip.kind,
        "real": clip.real,
        **{key: clip.truth[key] for key in NAMES},
    }


def write(path: Path, clip: Render) -> None:
    """Encode a clip as H.264 at its quality."""
    path.write_bytes(encode(clip.frames, clip.fps, crf=str(clip.crf), preset="fast"))


if __name__ == "__main__":
    main()
