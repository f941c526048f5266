"""Timesteps for samplers, and for training samples (explicit uniform sampling, paper section 3.3)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cogvideox.errors import UserError

# Makes timesteps independent of other random values with the same (seed, step).
_STREAM = 0x74696D65


def trailing(num_steps: int, num_timesteps: int = 1000) -> list[int]:
    """Return evenly spaced, descending timesteps that start at pure noise ("trailing", Lin et al. 2023, table 2).

    The last step ends at clean data. `num_steps` need not divide `num_timesteps`, because samplers use the list of
    timesteps instead of a step size.

    Raises:
        UserError: `num_steps` is not between 1 and `num_timesteps`.
    """
    if not 1 <= num_steps <= num_timesteps:
        nearest = min(max(num_steps, 1), num_timesteps)
        raise UserError(
            f"num_inference_steps={num_steps} must be between 1 and {num_timesteps}; the nearest is {nearest}"
        )
    return [round(num_timesteps * num_left / num_steps) - 1 for num_left in range(num_steps, 0, -1)]


def explicit_uniform(
    seed: int, step: int, num_slots: int, num_timesteps: int = 1000, *, ranks: Sequence[int] | None = None
) -> Int64[Tensor, "slots"]:
    """Explicit uniform sampling (paper section 3.3): stratified timesteps for one optimizer step.

    The range is split into `num_slots` equal intervals, one for each sample of the step (ranks x accumulation x batch),
    and one timestep is sampled from each. The assignment of intervals to slots is shuffled at every step, so no rank or
    batch position always has the same noise level. The result depends on the arguments only, so each rank uses its
    slice of it, and a step has the same timesteps for any number of ranks.

    Interval i is [i, i + 1) * num_timesteps / num_slots. Points in it are multiples of 1 / num_slots, so that all
    timesteps have the same probability even if `num_slots` does not divide `num_timesteps`.

    Args:
        ranks: rank of each slot. If given, one interval per rank, shared by its slots, as in the paper.

    Returns:
        The timestep of each slot, 0 to `num_timesteps` - 1.
    """
    rng = np.random.default_rng((_STREAM, seed, step))
    num_intervals = num_slots if ranks is None else max(ranks) + 1
    interval = rng.permutation(num_intervals)
    if ranks is not None:
        interval = interval[np.asarray(ranks)]
    within = rng.integers(num_timesteps, size=num_slots)
    return torch.from_numpy((interval * num_timesteps + within) // num_intervals)


def random_uniform(seed: int, step: int, num_slots: int, num_timesteps: int = 1000) -> Int64[Tensor, "slots"]:
    """Sample independent uniform timesteps, the paper's baseline for explicit uniform sampling."""
    rng = np.random.default_rng((_STREAM, seed, step))
    return torch.from_numpy(rng.integers(num_timesteps, size=num_slots))
