"""Several processes that run one function: `on_ranks(2, check, ...)` runs `check(ranks, ...)` in each of two.

What a process raises is raised here, with its traceback. Functions are found by their name, so they stand at the top of
a test file.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from cogvideox.parallel import mesh


def on_ranks(world: int, function: Callable[..., None], *args: Any, sequence: int = 1) -> None:
    as_torchrun(world, _joined, sequence, function, args)


def as_torchrun(world: int, function: Callable[..., None], *args: Any) -> None:
    """Runs `function(*args)` in processes that have not joined yet, as a command that `torchrun` starts."""
    # A server that has torch already forks each process in a moment; forking this one would copy its threads' locks.
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(_run, (world, free_port(), function, args), nprocs=world, start_method="forkserver", join=True)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _run(rank: int, world: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    function(*args)


def _joined(sequence: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    with mesh.start(sequence=sequence, device="cpu") as ranks:
        function(ranks, *args)
