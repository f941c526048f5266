"""Clusters of clips with similar content: k-means over an embedding column of the manifest, with bounded memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cogvideox.curation.manifest import manifest_path, read_schema
from cogvideox.errors import UserError

CLUSTER = "cluster"
_BATCH, _SEED = 20_000, 0


@dataclass(frozen=True)
class Clustering:
    """Settings for clustering clips.

    Attributes:
        num_clusters: number of clusters, 2 or more.
        embedding: manifest column with the embedding vectors.

    Raises:
        UserError: fewer than two clusters.
    """

    num_clusters: int
    embedding: str = "tags.embedding"

    def __post_init__(self) -> None:
        if self.num_clusters < 2:
            raise UserError(f"num_clusters={self.num_clusters} must be 2 or more")


def cluster_names(manifest: str | Path, clustering: Clustering) -> np.ndarray:
    """Return the cluster of every row of a manifest, such as "17"; "" for rows without an embedding.

    Raises:
        UserError: scikit-learn is not installed, or the embedding column is missing or has too few vectors.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise UserError("clusters need scikit-learn: pip install 'cogvideox[curate]'") from error
    schema = read_schema(manifest)
    if clustering.embedding not in schema.names or "list" not in str(schema.field(clustering.embedding).type):
        raise UserError(
            f"{manifest} has no column {clustering.embedding} of embeddings: run `cogvideox curate` with the signal "
            "tags, or "
            "choose another column with --embedding"
        )
    path, number = manifest_path(manifest), clustering.num_clusters
    model = MiniBatchKMeans(number, random_state=_SEED, n_init=1, batch_size=_BATCH)
    buffer: list[np.ndarray] = []
    for vectors, _ in _embeddings(path, clustering.embedding):
        buffer.append(vectors)
        if sum(map(len, buffer)) >= max(number, _BATCH // 2):  # the first call needs at least one vector per cluster
            model.partial_fit(np.concatenate(buffer))
            buffer = []
    rest = np.concatenate(buffer) if buffer else np.zeros((0, 1), np.float32)
    if not hasattr(model, "cluster_centers_"):
        if len(rest) < number:
            raise UserError(
                f"--clusters {number} is more than the {len(rest)} clips of {path} with {clustering.embedding}: "
                "choose fewer"
            )
        model.fit(rest)
    elif len(rest):
        model.partial_fit(rest)
    names = []
    for vectors, known in _embeddings(path, clustering.embedding):
        part = np.full(len(known), "", dtype=f"U{int(math.log10(number)) + 1}")
        if len(vectors):
            part[known] = model.predict(vectors).astype(str)
        names.append(part)
    return np.concatenate(names)


def _embeddings(path: Path, column: str) -> Iterator[tuple[Float32[np.ndarray, "n d"], np.ndarray]]:
    """Yield the vectors of each batch of rows, and a mask of the rows that have a vector."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=[column]):
            values = batch.column(0)
            known = np.asarray(values.is_valid())
            vectors = values.filter(values.is_valid()).flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            yield vectors.reshape(int(known.sum()), -1) if known.any() else np.zeros((0, 1), np.float32), known
