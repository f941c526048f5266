"""Buckets: clips of one source with the same number of frames and resolution."""

import numpy as np
from jaxtyping import Bool, Int

COLLAPSED = 0.1
"""A bucket has collapsed if the policy keeps less than this fraction of the share kept in the whole source."""


class Buckets:
    """The buckets of a source.

    Args:
        sizes: frames, height and width of each clip.
    """

    def __init__(self, source: str, sizes: Int[np.ndarray, "clips 3"]) -> None:
        shapes, bucket = np.unique(sizes, axis=0, return_inverse=True)
        self.names = [f"{frames} frames of {width}x{height} in {source}" for frames, height, width in shapes.tolist()]
        self.bucket = bucket.reshape(-1)
        self.counts = np.bincount(self.bucket, minlength=len(shapes))

    def collapsed(self, kept: Bool[np.ndarray, " clips"]) -> tuple[str, ...]:
        """Describe the collapsed buckets: hardly any of their clips are kept, although clips of other buckets are."""
        counts = np.bincount(self.bucket[kept], minlength=len(self.counts))
        few = counts < COLLAPSED * kept.mean() * self.counts
        return tuple(f"{self.names[i]}: {counts[i]} of {self.counts[i]} clips" for i in np.flatnonzero(few).tolist())
