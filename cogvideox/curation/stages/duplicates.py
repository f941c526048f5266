"""Near-duplicates: clips with the same content, such as the same video resized, re-encoded or slightly cropped.

Perceptual hashes give candidates. If two hashes differ in at most b of 64 bits per frame on average, at least one of
their 16-bit words differs in at most b // 4 bits, so only hashes with such a word are compared. If there is a column of
embeddings, candidates must also have similar embeddings, and clips with nearly equal embeddings are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt16

from cogvideox.curation.stage import Column
from cogvideox.errors import UserError

MAX_GROUP = 4000
"""Maximum number of hashes of a group that each hash is compared with; larger groups are compared only in part."""
_MAX_PAIRS = 2**20  # maximum number of pairs compared at once
_BLOCK = 2048


@dataclass(frozen=True)
class Duplicates:
    """Stage that groups near-duplicates. A group's preferred clip has the largest frames, then the longest duration.

    Attributes:
        max_bits: largest mean number of differing bits per frame (of 64); -1 disables the comparison of hashes.
        embedding: column with an embedding of each clip.
        min_cosine: minimum cosine similarity of the embeddings of candidates.
        same_cosine: cosine similarity from which clips are duplicates regardless of hashes; above 1 disables this.
    """

    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("duplicate_of", "str", "Id of the clip that is kept instead; missing if this clip is kept."),
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
        embeddings: Float32[np.ndarray, "n d"] | None,
        sizes: Sequence[tuple[int, float]],
    ) -> Int64[np.ndarray, " n"]:
        """Return for each clip the row of the preferred clip of its group: itself, unless it is a duplicate.

        Args:
            hashes: perceptual hashes, 16 hexadecimal digits per frame.
            embeddings: an embedding per clip, zeros where it is missing; None if there are none.
            sizes: pixels of a frame, and duration in seconds.
        """
        parents = np.arange(len(hashes))
        vectors = _normalized(embeddings)
        rank = np.empty(len(hashes), dtype=np.int64)
        rank[by_preference(sizes)] = np.arange(len(hashes))
        length = np.array([seconds for _, seconds in sizes], dtype=np.float64)

        def same(first: int, second: int) -> bool:
            return bool(_similar_length(length[first], length[second])) and _agree(
                vectors, first, second, self.min_cosine
            )

        if self.max_bits >= 0:
            for rows, words in _by_length(hashes):
                order = np.lexsort((length[rows], *words.T))
                rows, words = rows[order], words[order]
                equal = (words[1:] == words[:-1]).all(axis=1)
                is_first = np.ones(len(rows), dtype=bool)
                for index in (np.flatnonzero(equal) + 1).tolist():
                    if same(int(rows[index - 1]), int(rows[index])):
                        _union(parents, rank, int(rows[index - 1]), int(rows[index]))
                        is_first[index] = False
                rows, words = rows[is_first], words[is_first]
                for first, second in self._close(words, length[rows]).tolist():
                    if same(int(rows[first]), int(rows[second])):
                        _union(parents, rank, int(rows[first]), int(rows[second]))
        if vectors is not None and self.same_cosine <= 1:
            for first, second in _similar(vectors, self.same_cosine):
                _union(parents, rank, first, second)
        return np.array([_find(parents, row) for row in range(len(hashes))], dtype=np.int64)

    def _close(
        self, words: UInt16[np.ndarray, "n words"], seconds: Float64[np.ndarray, " n"]
    ) -> Int64[np.ndarray, "pairs 2"]:
        """Return the pairs of hashes that differ in few bits and belong to clips of similar length."""
        number = len(words)
        wide = words.view(np.uint64)
        limit, radius = self.max_bits * wide.shape[1], int(self.max_bits) // 4
        keys = [np.empty(0, dtype=np.int64)]
        for column in range(words.shape[1]):
            order = np.lexsort((*words.T, words[:, column]))
            values = words[order, column]
            starts = np.searchsorted(values, np.arange(2**16 + 1))
            ranks = np.arange(number) - starts[values]
            for mask in _masks(radius):
                low, high = starts[values ^ mask], starts[(values ^ mask).astype(np.int64) + 1]
                # In a very large group, only neighbors in the sorted order are compared.
                nearby = np.clip(ranks + low - MAX_GROUP // 2, low, high - MAX_GROUP)
                low = np.where(high - low > MAX_GROUP, nearby, low)
                counts = np.minimum(high - low, MAX_GROUP)
                blocks = np.cumsum(counts) // _MAX_PAIRS
                for part in np.split(np.arange(number), np.flatnonzero(np.diff(blocks)) + 1):
                    first = np.repeat(part, counts[part])
                    ends = np.cumsum(counts[part])
                    second = np.arange(len(first)) - np.repeat(ends - counts[part] - low[part], counts[part])
                    first, second = order[first], order[second]
                    first, second = np.minimum(first, second), np.maximum(first, second)
                    bits = np.bitwise_count(wide[first] ^ wide[second]).sum(axis=1, dtype=np.int64)
                    kept = (bits <= limit) & (first < second)
                    kept[kept] = _similar_length(seconds[first[kept]], seconds[second[kept]])
                    keys.append(np.unique(first[kept] * number + second[kept]))
        pairs = np.unique(np.concatenate(keys))
        return np.stack([pairs // number, pairs % number], axis=1)


def by_preference(sizes: Sequence[tuple[int, float]]) -> list[int]:
    """Return the clips in the order in which they are preferred: the largest frames, then the longest, then the first.

    Args:
        sizes: pixels of a frame, and duration in seconds.
    """
    return sorted(range(len(sizes)), key=lambda row: (-sizes[row][0], -sizes[row][1], row))


def _masks(radius: int) -> list[np.uint16]:
    """Return all 16-bit numbers with at most `radius` bits set."""
    chosen = (bits for size in range(radius + 1) for bits in combinations(range(16), size))
    return [np.uint16(sum(1 << bit for bit in bits)) for bits in chosen]


def _similar_length(first: Any, second: Any) -> Any:
    return abs(first - second) <= 0.1 * np.maximum(first, second) + 0.2


def _by_length(hashes: Sequence[str | None]):
    """Yield the rows and the 16-bit words of hashes, grouped by number of frames, without those of flat frames."""
    groups: dict[int, list[int]] = {}
    for row, digits in enumerate(hashes):
        if digits and not _is_flat(digits):
            groups.setdefault(len(digits), []).append(row)
    for rows in groups.values():
        data = b"".join(bytes.fromhex(hashes[row] or "") for row in rows)
        yield np.array(rows), np.frombuffer(data, dtype=np.uint16).reshape(len(rows), -1)


def _is_flat(digits: str) -> bool:
    """Return whether every frame has a single color or varies along one axis only, which gives the hash 0."""
    return set(digits) <= {"0"}


def _normalized(embeddings: Float32[np.ndarray, "n d"] | None) -> Float32[np.ndarray, "n d"] | None:
    if embeddings is None:
        return None
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)


def _agree(vectors: Float32[np.ndarray, "n d"] | None, first: int, second: int, min_cosine: float) -> bool:
    """Return whether the embeddings of two clips are similar; True if one has none."""
    if vectors is None or not vectors[first].any() or not vectors[second].any():
        return True
    return float(vectors[first] @ vectors[second]) >= min_cosine


def _similar(vectors: Float32[np.ndarray, "n d"], min_cosine: float):
    for row_start in range(0, len(vectors), _BLOCK):
        for column_start in range(row_start, len(vectors), _BLOCK):
            cosines = vectors[row_start : row_start + _BLOCK] @ vectors[column_start : column_start + _BLOCK].T
            for row, column in np.argwhere(cosines >= min_cosine).tolist():
                if row_start + row < column_start + column:
                    yield row_start + row, column_start + column


def _find(parents: Int64[np.ndarray, " n"], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _union(parents: Int64[np.ndarray, " n"], rank: Int64[np.ndarray, " n"], row: int, other_row: int) -> None:
    first, second = sorted((_find(parents, row), _find(parents, other_row)), key=lambda row: rank[row])
    parents[second] = first
