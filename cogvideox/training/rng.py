"""Random generators that depend only on (purpose, seed, step).

No generator is used for more than one step, so checkpoints need no generator state.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch

Purpose = Literal["order", "posterior", "noise", "caption", "weights", "validation", "sample", "frames", "spans"]

# Separate random streams for each purpose, for any seed and step.
_STREAM: dict[Purpose, int] = {
    "order": 0x6F726472,
    "posterior": 0x706F7374,
    "noise": 0x6E6F6973,
    "caption": 0x63617074,
    "weights": 0x77656967,
    "validation": 0x76616C69,
    "sample": 0x73616D70,
    "frames": 0x6672616D,
    "spans": 0x7370616E,
}


def numpy_generator(purpose: Purpose, seed: int, step: int = 0) -> np.random.Generator:
    """Create a numpy generator for one purpose in one step."""
    return np.random.default_rng((_STREAM[purpose], seed, step))


def torch_generator(purpose: Purpose, seed: int, step: int = 0) -> torch.Generator:
    """Create a torch generator for one purpose in one step. It is on the CPU, so that numbers are the same on every
    device."""
    return torch.Generator().manual_seed(int(numpy_generator(purpose, seed, step).integers(2**63)))


def clip_indices(seed: int, step: int, batch_size: int, num_clips: int) -> list[int]:
    """Return the clip indices of step `step`. Each epoch contains every clip once, in a new random order.

    A batch may span the end of one epoch and the beginning of the next.
    """
    samples = range(step * batch_size, (step + 1) * batch_size)
    return [int(_shuffled(seed, i // num_clips, num_clips)[i % num_clips]) for i in samples]


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    return numpy_generator("order", seed, epoch).permutation(num_clips)
