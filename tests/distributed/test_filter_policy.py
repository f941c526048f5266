"""Bounds on flow and aesthetics move over the steps of a training on two ranks, which is killed and resumed.

The scores come from a manifest, through `select` and the latent store.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from cogvideox import config
from cogvideox.curation import manifest
from cogvideox.curation.selection import ManifestSelector
from cogvideox.curation.stage import Column
from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.mixture import DataSource, StepPlan
from cogvideox.dataset.packed_loader import PackedLoader, StepBatches
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.filter_policy.schedule import Schedule
from cogvideox.pretrained import model_folder
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.trainer import train
from cogvideox.video import io
from tests import tiny
from tests.distributed.spawn import as_torchrun

NUM_CLIPS, NUM_STEPS = 20, 10
LARGE, SMALL = (9, 32, 32), (5, 32, 32)  # frames, height, width
COLUMNS = [
    *(Column(name, "float", "") for name in ("file_seconds", "start", "end", "seconds", "motion.flow_mean")),
    *(Column(name, "float", "") for name in ("aesthetics.score", "labels.editing")),
    Column("is_image", "bool", ""),
    Column("clip_file", "str", ""),
    Column("duplicate_of", "str", ""),
]
MOVING = Policy(
    (
        Bound("motion.flow_mean", at_least=Schedule((0, 8), (0.0, 0.6)), scale="quantile"),
        Bound("aesthetics.score", at_least=Schedule((2, 6), (3.0, 4.5))),
        Bound("motion.flow_mean", at_most=0.95),
    ),
    labels={"editing": 0.5},
)
FIXED = Policy((Bound("motion.flow_mean", at_least=0.3),), labels={"editing": 0.5})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DiffusionTraining:
    """Encode the clips of a manifest whose flow grows with their index; every fourth clip is an image."""
    folder = tmp_path_factory.mktemp("policy")
    schema, rng, rows = manifest.schema(COLUMNS), np.random.default_rng(0), []
    (folder / "raw").mkdir()
    (folder / "curated").mkdir()
    for i in range(NUM_CLIPS):
        is_image, shape = i % 4 == 3, (LARGE, SMALL)[i % 2]
        name = f"{i:02}.png" if is_image else f"{i:02}.mp4"
        frames = rng.integers(0, 255, (1 if is_image else shape[0], *shape[1:], 3), dtype=np.uint8)
        io.write(folder / "raw" / name, frames, 8.0)
        row = dict.fromkeys(schema.names) | {"id": f"{i:024}", "source": name, "status": "ok", "caption": f"a ball {i}"}
        row |= {"start": 0.0, "end": 9.0, "seconds": 1.0, "file_seconds": 2.0, "is_image": is_image}
        row |= {"motion.flow_mean": None if is_image else i / NUM_CLIPS, "aesthetics.score": 3 + i % 3}
        rows.append(row | {"labels.editing": 0.9 if i == 10 else 0.1})
    manifest.write_table(pa.Table.from_pylist(rows, schema), folder / "curated" / manifest.MANIFEST)
    ManifestSelector(folder / "curated", MOVING).write(folder / "chosen", None, folder / "raw")
    base = DiffusionTraining(
        model=str(tiny.write(folder / "model", "5b")),
        data=(DataSource(str(folder / "chosen")),),
        row_tokens=64,
        optim=OptimSettings(lr=1e-3, warmup_steps=1, schedule="constant"),
        run=RunSettings(num_steps=1, batch_size=2, device="cpu", log_interval=1, save_interval=2, ema_decay=0.5),
        target=ClipFormat(fps=8.0, num_frames=9, height=32, width=32),
        export_dtype="float32",
    )
    train(base, folder / "encoding")
    (store,) = (folder / "encoding/stores").iterdir()
    run = replace(base.run, num_steps=NUM_STEPS)
    policy = config.load(Policy, folder / "chosen/policy.yaml")
    assert policy.is_resolved
    return replace(base, data=(DataSource(str(store)),), run=run, policy=policy)


def run(settings: DiffusionTraining, out: Path, killed_at: int | None = None) -> None:
    """Train, and record the ids of the clips of each step on this rank. Rank 1 is killed before a step."""
    load_step = PackedLoader.load_step
    rank = os.environ["RANK"]

    def recorded(loader: PackedLoader, plan: StepPlan) -> StepBatches:
        step = plan.state_after.step
        if step == killed_at and rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        batches = load_step(loader, plan)
        ids = [id for batch in batches.batches for id in batch.clip_ids]
        with (out.parent / f"{out.name}-rank-{rank}.jsonl").open("a") as file:
            file.write(json.dumps([step, ids]) + "\n")
        return batches

    PackedLoader.load_step = recorded  # type: ignore[method-assign]
    train(settings, out, resume=True)


def sequence(out: Path) -> list[dict[int, list[str]]]:
    """Return the clips of each step by rank; a repeated step counts once, and must repeat the same clips."""
    ranks = []
    for rank in range(2):
        steps: dict[int, list[str]] = {}
        for line in (out.parent / f"{out.name}-rank-{rank}.jsonl").read_text().splitlines():
            step, ids = json.loads(line)
            assert steps.setdefault(step, ids) == ids
        ranks.append(steps)
    return ranks


def kept_fractions(out: Path) -> dict[int, float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: next(value for name, value in line.items() if name.startswith("kept/")) for line in lines}


def test_a_killed_run_with_moving_bounds_repeats_the_clip_sequence(settings: DiffusionTraining, tmp_path: Path) -> None:
    as_torchrun(2, run, settings, tmp_path / "uninterrupted")
    with pytest.raises(ProcessExitedException):
        as_torchrun(2, run, settings, tmp_path / "killed", 6)
    assert len(kept_fractions(tmp_path / "killed")) < NUM_STEPS
    as_torchrun(2, run, settings, tmp_path / "killed")

    uninterrupted, resumed = sequence(tmp_path / "uninterrupted"), sequence(tmp_path / "killed")
    assert uninterrupted == resumed and [len(steps) for steps in uninterrupted] == [NUM_STEPS, NUM_STEPS]
    assert uninterrupted[0] != uninterrupted[1]
    assert kept_fractions(tmp_path / "uninterrupted") == kept_fractions(tmp_path / "killed")
    weights = [
        model_folder.load(tmp_path / name / "model").transformer.state_dict() for name in ("uninterrupted", "killed")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    fractions = kept_fractions(tmp_path / "uninterrupted")
    assert sorted(fractions) == list(range(1, NUM_STEPS + 1))
    assert fractions[1] > 0.8 and fractions[9] == fractions[10] < 0.5
    values = list(fractions.values())
    assert values == sorted(values, reverse=True) and len(set(values)) >= 4

    as_torchrun(2, run, replace(settings, policy=FIXED), tmp_path / "fixed")
    assert len(set(kept_fractions(tmp_path / "fixed").values())) == 1
    assert sequence(tmp_path / "fixed") != uninterrupted
