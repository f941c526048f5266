"""What chance decides in a step, as a function of (seed, step) alone.

No generator lives from one step to the next, so a resumed run has nothing to restore: it goes on counting.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch

Purpose = Literal["order", "posterior", "noise", "caption", "weights", "validation", "sample", "frames"]

# Keeps the random numbers of different purposes apart, whatever seed and step are.
_STREAM: dict[Purpose, int] = {
    "order": 0x6F726472,
    "posterior": 0x706F7374,
    "noise": 0x6E6F6973,
    "caption": 0x63617074,
    "weights": 0x77656967,
    "validation": 0x76616C69,
    "sample": 0x73616D70,
    "frames": 0x6672616D,
}


def numpy_generator(purpose: Purpose, seed: int, step: int = 0) -> np.random.Generator:
    """A fresh numpy generator for one purpose of one step."""
    return np.random.default_rng((_STREAM[purpose], seed, step))


def torch_generator(purpose: Purpose, seed: int, step: int = 0) -> torch.Generator:
    """A fresh torch generator on the CPU for one purpose of one step: the same numbers whatever the device."""
    return torch.Generator().manual_seed(int(numpy_generator(purpose, seed, step).integers(2**63)))


def clip_indices(seed: int, step: int, batch_size: int, num_clips: int) -> list[int]:
    """Which clips step `step` trains on.

    The clips are gone through in an order that is drawn anew for each pass; a batch may end one pass and begin the
    next, so every clip is seen equally often.
    """
    visits = range(step * batch_size, (step + 1) * batch_size)
    return [int(_order(seed, visit // num_clips, num_clips)[visit % num_clips]) for visit in visits]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    return numpy_generator("order", seed, epoch).permutation(num_clips)
