"""This process among those of a run, from the environment variables that `torchrun` sets."""

import os

from cogvideox.errors import UserError


def world_size() -> int:
    """Return the number of processes started by `torchrun`; 1 without `torchrun`.

    Raises:
        UserError: the variable is not a number of processes; likewise in the other functions.
    """
    return _integer("WORLD_SIZE", default=1, minimum=1)


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return _integer("LOCAL_WORLD_SIZE", default=1, minimum=1)


def rank() -> int:
    """Return the rank of this process, from 0."""
    return _integer("RANK", default=0, minimum=0)


def local_rank() -> int:
    """Return the rank of this process among those on this machine, from 0."""
    return _integer("LOCAL_RANK", default=0, minimum=0)


def _integer(name: str, *, default: int, minimum: int) -> int:
    value = os.environ.get(name, str(default))
    if value.isascii() and value.isdigit() and int(value) >= minimum:
        return int(value)
    raise UserError(
        f"the environment variable {name}={value!r} must be an integer of {minimum} or more: unset it, or start the "
        "processes with torchrun, which sets it"
    )
