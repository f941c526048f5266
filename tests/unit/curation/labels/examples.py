"""Synthetic manifests of measured clips with known labels."""

import numpy as np
import pyarrow as pa

from cogvideox.curation.labels.definitions import LABELS


def measured_clips(number: int, seed: int = 0, noise: float = 0.5) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Return a manifest and its labels. `text` affects only the embedding, all other labels only the signals."""
    rng = np.random.default_rng(seed)
    truth = {name: (rng.random(number) < 0.4).astype(np.float64) for name in LABELS}
    embedding = rng.normal(size=(number, 16)) * 0.3
    embedding[:, 3] += 2.0 * truth["text"]
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    columns = {
        "id": pa.array([f"clip-{row}" for row in range(number)]),
        "source": pa.array([f"{row % 7}/video-{row // 2}.mp4" for row in range(number)]),
        "height": pa.array([(240, 480)[row % 2] for row in range(number)], pa.int64()),
        "start": pa.array([0.0] * number),
        "end": pa.array([2.0] * number),
    }
    for index, name in enumerate(LABELS):
        values = truth[name] * (name != "text") + rng.normal(size=number) * noise
        columns[f"signal.{name}"] = pa.array(10.0**index * values)
    missing = rng.random(number) < 0.1
    values = [None if gone else float(value) for gone, value in zip(missing, rng.normal(size=number))]
    columns["signal.sometimes"] = pa.array(values, pa.float64())
    columns["signal.words"] = pa.array(["word"] * number)
    columns["tags.embedding"] = pa.array(embedding.astype(np.float32).tolist(), pa.list_(pa.float32()))
    return pa.table(columns), truth
