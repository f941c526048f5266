"""Near-duplicates: clips that show the same, such as the same video resized, re-encoded or slightly cropped.

Perceptual hashes find candidates: two clips whose hashes differ in few bits agree in at least one group of 16 bits.
Where an embedding column exists, it has to agree, and finds further pairs on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from cogvideox.curation.stage import Column
from cogvideox.errors import UserError

_MAX_GROUP = 200  # clips that share 16 bits; more share them by chance, or because they are black
_BLOCK = 2048


@dataclass(frozen=True)
class Duplicates:
    """Groups near-duplicates and keeps the best clip of each: the largest frames, then the longest, then the first.

    Attributes:
        max_bits: mean number of differing bits (of 64 per frame) of duplicates, at most; -1 turns this off.
        embedding: column with an embedding (a list of numbers) of each clip.
        min_cosine: candidates by hash are duplicates only if the cosine of their embeddings is at least this.
        same_cosine: clips are duplicates if the cosine of their embeddings is at least this; above 1 turns this off.
    """

    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("duplicate_of", "str", "Id of the clip that is kept instead; missing if this one is kept."),
    )

    max_bits: float = 8.0
    embedding: str = "tags.embedding"
    min_cosine: float = 0.85
    same_cosine: float = 0.97

    def __post_init__(self) -> None:
        if self.max_bits > 11:
            raise UserError(f"max_bits={self.max_bits:g} must be 11 or less; 8 finds re-encoded and resized clips")

    def find(
        self,
        hashes: Sequence[str | None],
        embeddings: Sequence[Sequence[float] | None],
        pixels: Sequence[int],
        seconds: Sequence[float],
    ) -> Int64[np.ndarray, " n"]:
        """Return for each clip the row of the clip that is kept, which is itself unless it is a duplicate.

        Args:
            hashes: perceptual hashes, 16 hexadecimal digits per frame.
            embeddings: None, or one embedding per clip.
        """
        parents = np.arange(len(hashes))
        vectors = _normalized(embeddings)
        by_preference = sorted(range(len(hashes)), key=lambda row: (-pixels[row], -seconds[row], row))
        rank = np.empty(len(by_preference), dtype=np.int64)
        rank[by_preference] = np.arange(len(by_preference))
        if self.max_bits >= 0:
            for rows, words in _by_length(hashes):
                for one, other in self._pairs(rows, words, np.asarray(seconds)):
                    if _agree(vectors, one, other, self.min_cosine):
                        _union(parents, rank, one, other)
        if vectors is not None and self.same_cosine <= 1:
            for one, other in _similar(vectors, self.same_cosine):
                _union(parents, rank, one, other)
        return np.array([_find(parents, row) for row in range(len(hashes))], dtype=np.int64)

    def _pairs(self, rows: np.ndarray, words: UInt8[np.ndarray, "n bytes"], seconds: np.ndarray):
        """Yield pairs of rows whose hashes are close, from groups that agree in 16 bits."""
        seen: set[tuple[int, int]] = set()
        chunks = words.view(np.uint16)
        limit = self.max_bits * words.shape[1] / 8
        for column in range(chunks.shape[1]):
            order = np.argsort(chunks[:, column], kind="stable")
            changes = np.flatnonzero(np.diff(chunks[order, column])) + 1
            for first, after in pairwise([0, *changes.tolist(), len(order)]):
                group = order[first : min(after, first + _MAX_GROUP)]
                if len(group) < 2:
                    continue
                bits = np.bitwise_count(words[group][:, None] ^ words[group][None]).sum(axis=2, dtype=np.int32)
                for one, other in np.argwhere(np.triu(bits <= limit, k=1)).tolist():
                    pair = int(rows[group[one]]), int(rows[group[other]])
                    if pair not in seen and _similar_length(seconds[pair[0]], seconds[pair[1]]):
                        seen.add(pair)
                        yield pair


def _similar_length(one: float, other: float) -> bool:
    return bool(abs(one - other) <= 0.1 * max(one, other) + 0.2)


def _by_length(hashes: Sequence[str | None]):
    """Yield the rows and the bytes of hashes with the same number of frames, without those of flat frames."""
    groups: dict[int, list[int]] = {}
    for row, digits in enumerate(hashes):
        if digits and not _is_flat(digits):
            groups.setdefault(len(digits), []).append(row)
    for rows in groups.values():
        data = b"".join(bytes.fromhex(hashes[row] or "") for row in rows)
        yield np.array(rows), np.frombuffer(data, dtype=np.uint8).reshape(len(rows), -1).copy()


def _is_flat(digits: str) -> bool:
    """Whether every frame is of one color, which has no frequencies, so that all such frames have the same hash."""
    return set(digits) <= {"0"} or set(digits) <= {"f"}


def _normalized(embeddings: Sequence[Sequence[float] | None]) -> Float32[np.ndarray, "n d"] | None:
    size = next((len(vector) for vector in embeddings if vector is not None), 0)
    if not size:
        return None
    table = np.zeros((len(embeddings), size), dtype=np.float32)
    for row, vector in enumerate(embeddings):
        if vector is not None:
            table[row] = vector
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    return table / np.maximum(norms, 1e-9)


def _agree(vectors: Float32[np.ndarray, "n d"] | None, one: int, other: int, min_cosine: float) -> bool:
    """Whether the embeddings of two clips are similar; True if one has none."""
    if vectors is None or not vectors[one].any() or not vectors[other].any():
        return True
    return float(vectors[one] @ vectors[other]) >= min_cosine


def _similar(vectors: Float32[np.ndarray, "n d"], min_cosine: float):
    for first in range(0, len(vectors), _BLOCK):
        for second in range(first, len(vectors), _BLOCK):
            cosines = vectors[first : first + _BLOCK] @ vectors[second : second + _BLOCK].T
            for one, other in np.argwhere(cosines >= min_cosine).tolist():
                if first + one < second + other:
                    yield first + one, second + other


def _find(parents: Int64[np.ndarray, " n"], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _union(parents: Int64[np.ndarray, " n"], rank: Int64[np.ndarray, " n"], one: int, other: int) -> None:
    first, second = sorted((_find(parents, one), _find(parents, other)), key=lambda row: rank[row])
    parents[second] = first
