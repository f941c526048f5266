"""Time and memory of filter policies on a manifest of many rows of synthetic values.

    python benchmarks/policies.py --rows 1000000 --out build/benchmarks/policies.json

Writes the manifest to a temporary folder. Each task runs in its own process; its peak memory includes the imports.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import environment, resident_bytes, write_json
from pyarrow import parquet

from cogvideox import config
from cogvideox.curation import manifest
from cogvideox.curation.selection import POLICY, ManifestSelector
from cogvideox.curation.stage import Column
from cogvideox.dataset.mixture import ClipTable, DataSource, Mixture, MixtureSettings
from cogvideox.filter_policy.policy import Balance, Bound, Policy, Target
from cogvideox.filter_policy.schedule import Schedule
from cogvideox.filter_policy.selector import Selector

SCORES = ("motion.flow_mean", "aesthetics.score", "text.overlay_area", "labels.editing", "labels.low_quality")
COLUMNS = (
    *(Column(name, "float", "") for name in ("file_seconds", "start", "end", "seconds", *SCORES)),
    Column("is_image", "bool", ""),
    *(Column(name, "str", "") for name in ("clip_file", "cluster", "duplicate_of")),
)
UP = Schedule((0, 20_000, 100_000), (0.05, 0.2, 0.4))
BOUNDS = (
    Bound("motion.flow_mean", at_least=UP, at_most=0.99, scale="quantile"),
    Bound("aesthetics.score", at_least=UP, scale="quantile"),
    Bound("text.overlay_area", at_most=0.9),
)
LABELS = {"editing": 0.8, "low_quality": 0.8}
POLICIES = {
    "fixed": Policy((Bound("aesthetics.score", best=0.2), BOUNDS[2]), LABELS),
    "moving": Policy(BOUNDS, LABELS),
    "moving, balanced": Policy(BOUNDS, LABELS, balance=Balance(max_fraction=0.02)),
    "target fraction": Policy((BOUNDS[2],), LABELS, target=Target(UP, high=SCORES[:2])),
}
ROW_GROUP = 50_000
NUM_PLANS, NUM_MASKS = 20, 20


def write_manifest(folder: Path, num_rows: int) -> None:
    """Write a manifest in which a tenth of the rows are images and a tenth are near-duplicates of the previous row."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = manifest.schema(COLUMNS)
    with parquet.ParquetWriter(folder / manifest.MANIFEST, schema, compression="zstd") as writer:
        for first in range(0, num_rows, ROW_GROUP):
            rng, rows = np.random.default_rng((0, first)), np.arange(first, min(first + ROW_GROUP, num_rows))
            ids = np.array([f"{i * 2654435761 % 2**64:024x}" for i in range(first - 1, rows[-1] + 1)])
            is_copy, is_image = rows % 10 == 5, rows % 10 == 0
            columns: dict[str, Any] = {name: rng.random(len(rows)) for name in SCORES}
            columns["motion.flow_mean"] = np.where(is_image, None, columns["motion.flow_mean"])
            columns |= {"id": ids[1:], "source": [f"{i}.mp4" for i in rows], "caption": ["a clip"] * len(rows)}
            columns |= {"status": np.where(is_copy, "dropped", "ok"), "stage": np.where(is_copy, "duplicates", None)}
            columns |= {"duplicate_of": np.where(is_copy, ids[:-1], None), "is_image": is_image}
            columns |= {"cluster": [f"c{k}" for k in rng.zipf(1.5, len(rows)).clip(max=200)]}
            columns |= {
                "start": np.zeros(len(rows)),
                "end": np.full(len(rows), 5.0),
                "seconds": np.full(len(rows), 5.0),
            }
            columns |= {"file_seconds": np.full(len(rows), 60.0)}
            empty = [None] * len(rows)
            arrays = [pa.array(columns.get(field.name, empty), field.type, from_pandas=True) for field in schema]
            writer.write_table(pa.table(arrays, schema=schema))


def select(folder: Path, policy: Policy) -> dict[str, float]:
    """Read, resolve and select once; then write what passes at any step."""
    start = time.perf_counter()
    selector = ManifestSelector(folder, policy)
    resolved = time.perf_counter()
    selector.kept_at(0)
    counted = time.perf_counter()
    steps = np.linspace(0, 100_000, NUM_MASKS).astype(int).tolist()
    kept = [float(selector.selector.mask(step).mean()) for step in steps]
    masked = time.perf_counter()
    number = selector.write(folder / "chosen", None, folder / "raw")
    written = time.perf_counter()
    return {
        "read and resolve, s": resolved - start,
        "select at one step, s": counted - resolved,
        "mask at another step, s": (masked - counted) / NUM_MASKS,
        "write what passes at any step, s": written - masked,
        "clips written": number,
        "kept at step 0": kept[0],
        "kept at step 100,000": kept[-1],
    }


def plan(folder: Path, policy: Policy) -> dict[str, float]:
    """Plan training steps with moving thresholds: 64 rows of 20,000 tokens, about 560 clips per step."""
    table = manifest.read_manifest(folder, SCORES)
    columns = {name: table[name].to_numpy() for name in SCORES}
    rows, is_image = table.num_rows, np.arange(table.num_rows) % 10 == 0
    lengths = np.where(is_image, 600, 2500)
    settings = MixtureSettings((DataSource("clips"),), row_tokens=20_000, num_rows=64, policy=policy)
    start = time.perf_counter()
    mixture = Mixture({"clips": ClipTable(lengths, is_image, columns)}, settings, 0)
    mixture.initial_state()
    opened = time.perf_counter()
    state = config.from_dict(type(mixture.initial_state()), config.to_dict(mixture.initial_state()) | {"step": 10_000})
    clips = 0
    for _ in range(NUM_PLANS):
        step = mixture.plan_step(state)
        state, clips = step.state_after, clips + step.num_clips
    return {
        "rows": rows,
        "open, s": opened - start,
        "plan a step, s": (time.perf_counter() - opened) / NUM_PLANS,
        "clips per step": clips / NUM_PLANS,
    }


def select_elsewhere(folder: Path, policy: Policy) -> dict[str, float]:
    """Select with the resolved file from the rows in another order, and compare with the selection of `policy`."""
    names = [*SCORES, "id", "duplicate_of", "is_image"]
    table = manifest.read_manifest(folder, names)
    stored = config.load(Policy, folder / "chosen" / POLICY)
    order = np.random.default_rng(1).permutation(table.num_rows)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in names}
    shuffled = {name: column[order] for name, column in columns.items()}
    here, there = (Selector(*arguments, table.num_rows) for arguments in ((policy, columns), (stored, shuffled)))
    steps = (0, 12_345, 20_000, 77_777, 100_000)
    different = sum(int((here.mask(step)[order] != there.mask(step)).sum()) for step in steps)
    return {"steps": len(steps), "rows selected differently": different}


def measure(queue: Any, task: Callable[..., dict[str, float]], *arguments: Any) -> None:
    queue.put(task(*arguments) | {"peak memory, bytes": resident_bytes("VmHWM")})


def in_process(task: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run a task in a new process. Returns its results with the peak memory."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(queue, task, *arguments))
    process.start()
    result = queue.get()
    process.join()
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/policies.json"))
    options = parser.parse_args()
    folder, rows = Path(tempfile.mkdtemp()), {}
    try:
        write_manifest(folder, options.rows)
        for name, policy in POLICIES.items():
            rows[f"select: {name}"] = in_process(select, folder, policy)
            print(name, json.dumps(rows[f"select: {name}"]), flush=True)
        in_process(select, folder, POLICIES["moving"])
        rows["the resolved file elsewhere"] = in_process(select_elsewhere, folder, POLICIES["moving"])
        for name in ("fixed", "moving"):
            rows[f"training: {name}"] = in_process(plan, folder, POLICIES[name])
    finally:
        shutil.rmtree(folder)
    report = {"benchmark": "policies", "environment": environment(), "settings": f"{options.rows:,} rows", "rows": rows}
    write_json(options.out, report)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
