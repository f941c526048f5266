"""A small curation: a manifest of clips with signals, and raw files."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.manifest import MANIFEST, schema, write_table
from cogvideox.curation.stage import Column
from cogvideox.records import Video

SIGNALS = tuple(f"signal.{name}" for name in LABELS)
COLUMNS = (
    Column("clip_file", "str", "Clip file."),
    Column("index", "int", "Index."),
    Column("start", "float", "Start."),
    Column("end", "float", "End."),
    *(Column(name, "float", "A signal.") for name in SIGNALS),
)


def write_curation(folder: Path, number: int, *, noise: float = 0.3, frames: int = 6) -> dict[str, np.ndarray]:
    """Write `folder/out` and `folder/raw`, and return the true labels by name. A signal measures each label."""
    raw, output, rng = folder / "raw", folder / "out", np.random.default_rng(0)
    raw.mkdir(parents=True)
    output.mkdir()
    truth = {name: rng.random(number) < 0.35 for name in LABELS}
    rows: dict[str, list] = {field.name: [] for field in schema(COLUMNS)}
    for index in range(number):
        source = f"video-{index}.mp4"
        if frames:
            pixels = rng.integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
            Video(pixels, 24.0).save(raw / source)
        row = {"id": f"{index:024x}", "source": source, "status": "ok", "index": 0, "start": 0.0, "end": frames / 24.0}
        row |= {name: float(truth[name[7:]][index] + rng.normal(0, noise)) for name in SIGNALS}
        for name, values in rows.items():
            values.append(row.get(name))
    table = pa.table(rows, schema=schema(COLUMNS))
    write_table(table, output / MANIFEST)
    return truth
