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
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from common import ROOT  # noqa: F401 - puts the checkout on the path
from label_families import families
from label_renders import NAMES, Generator, Render

from cogvideox.curation.recipe import Recipe
from cogvideox.curation.run import curate
from cogvideox.curation.stages.split import Split

CHUNKS = [(150, 50)] * 4 + [(200, 0)] * 2  # training and test clips of each chunk
FIRST_HARD = 4 * 150  # training clips from here on are hard: see `Generator`
SIGNALS = {
    **{
        name: {}
        for name in ("brisque", "edits", "faces", "motion", "picture", "screen", "stillness", "tags", "technical")
    },
    "text": {"num_frames": 1},  # the clips are short, and reading takes most of the time
}
# A clip is a whole file, cuts included: the labels of what `split` misses are measured, too.
RECIPE = Recipe(
    split=Split(min_seconds=0.5, max_seconds=120.0, adaptive_threshold=1e9, min_content=255.0, dissolve_seconds=1e-3),
    signals=SIGNALS,
)
TEST_SEED = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("render", "real", "evaluate"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the data")
    parser.add_argument("--footage", type=Path, help="folder of footage for the renders")
    parser.add_argument("--clips", type=Path, help="folder of real clips")
    parser.add_argument("--json", type=Path, help="report to write")
    parser.add_argument("--chart", type=Path, help="chart of the balanced accuracy by number of annotations to write")
    parser.add_argument("--chunks", type=int, default=len(CHUNKS), help="how many of the chunks")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.step == "render":
        render(options.footage, options.out, options.chunks, options.workers)
    elif options.step == "real":
        recipe = replace(RECIPE, signals=SIGNALS | {"text": {}})
        curate(options.clips, options.out / "real", recipe, workers=options.workers)
    else:
        from label_evaluation import evaluate

        evaluate(options.out, options.json, options.chart)


def render(footage: Path, out: Path, num_chunks: int, workers: int) -> None:
    """Render chunk by chunk, and compute the signals of each."""
    for chunk, (num_train, num_test) in enumerate(CHUNKS[:num_chunks]):
        folder = out / f"chunk-{chunk}"
        first_train, first_test = (sum(sizes[side] for sizes in CHUNKS[:chunk]) for side in (0, 1))
        jobs = [("train", first_train + index) for index in range(num_train)]
        jobs += [("test", first_test + index) for index in range(num_test)]
        if not (folder / "truth.json").is_file():
            with ProcessPoolExecutor(workers, initializer=start_worker, initargs=(footage,)) as pool:
                truth = list(pool.map(write_clip, [(side, index, folder / "raw") for side, index in jobs], chunksize=8))
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
    side, index, folder = job
    folder.mkdir(parents=True, exist_ok=True)
    seed = index + (TEST_SEED if side == "test" else 0)
    clip = Generator(
        _worker["families"][side], seed, _worker["cache"], side == "train" and index >= FIRST_HARD
    ).render()
    name = f"{side}-{index:05d}.mp4"
    write(folder / name, clip)
    return {
        "source": name,
        "side": side,
        "kind": clip.kind,
        "real": clip.real,
        **{key: clip.truth[key] for key in NAMES},
    }


def write(path: Path, clip: Render) -> None:
    """Encode a clip as H.264 at its quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1000))
        height, width = (side // 2 * 2 for side in clip.frames.shape[1:3])
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": str(clip.crf), "preset": "fast", "threads": "1"}
        for image in clip.frames[:, :height, :width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
