"""Which timesteps are visited: a descending list in sampling, one for each sample of an optimizer step in training."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cogvideox.errors import UserError

# Keeps these random numbers apart from others that are drawn from the same (seed, step).
_STREAM = 0x74696D65


def trailing(num_steps: int, num_timesteps: int = 1000) -> list[int]:
    """The timesteps of a sampler with `num_steps` steps: evenly spaced, descending, beginning at the last, pure noise.

    "Trailing" spacing of Lin et al. 2023, table 2. The step from the last one ends at clean data. Any number of steps
    is right, because samplers take the list and never compute the next timestep from a step size.

    Raises:
        UserError: `num_steps` is not in 1 .. `num_timesteps`.
    """
    if not 1 <= num_steps <= num_timesteps:
        nearest = min(max(num_steps, 1), num_timesteps)
        raise UserError(f"num_inference_steps={num_steps} is not in 1 to {num_timesteps}; the nearest is {nearest}")
    return [round(num_timesteps * left / num_steps) - 1 for left in range(num_steps, 0, -1)]


def explicit_uniform(
    seed: int, step: int, num_slots: int, num_timesteps: int = 1000, *, ranks: Sequence[int] | None = None
) -> Int64[Tensor, "slots"]:
    """Explicit uniform sampling (paper section 3.3): timesteps of one optimizer step that cover the range evenly.

    The range is cut into `num_slots` equal intervals, one for each sample of the whole step (ranks x accumulation x
    batch), and one timestep is drawn inside each. Which slot gets which interval is shuffled anew at each step, so that
    a rank, or a place in the data order, has no noise level of its own. The answer depends on the arguments alone: a
    rank takes its slice of it, and a step has the same timesteps however many ranks share it.

    Interval i is [i, i + 1) * num_timesteps / num_slots. Points in it are drawn as whole multiples of 1 / num_slots, so
    every timestep is exactly as likely as another, also where `num_slots` does not divide `num_timesteps`.

    Args:
        ranks: of each slot, the rank that computes it. As in the paper, there is then one interval for each rank, in
            which all its slots draw, so that more ranks are more intervals.
    """
    rng = np.random.default_rng((_STREAM, seed, step))
    num_intervals = num_slots if ranks is None else max(ranks) + 1
    interval = rng.permutation(num_intervals)
    if ranks is not None:
        interval = interval[np.asarray(ranks)]
    within = rng.integers(num_timesteps, size=num_slots)
    return torch.from_numpy((interval * num_timesteps + within) // num_intervals)


def random_uniform(seed: int, step: int, num_slots: int, num_timesteps: int = 1000) -> Int64[Tensor, "slots"]:
    """Independent uniform timesteps, the baseline that the paper compares explicit uniform sampling with."""
    rng = np.random.default_rng((_STREAM, seed, step))
    return torch.from_numpy(rng.integers(num_timesteps, size=num_slots))
