"""Run a function on several ranks: `on_ranks(2, check, ...)` runs `check(ranks, ...)` in two processes.

Exceptions of a process are re-raised, with their traceback. Functions are pickled by name, so they must be defined at
the top level of a test file.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cogvideox.parallel import mesh


def on_ranks(world: int, function: Callable[..., None], *args: Any, sequence: int = 1) -> None:
    as_torchrun(world, _with_ranks, sequence, function, args)


def as_torchrun(world: int, function: Callable[..., None], *args: Any) -> None:
    """Run `function(*args)` in processes with the environment of `torchrun`, before `init_process_group`."""
    # Forking from a server that has imported torch is fast. Forking this process would copy its threads' locks.
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    # As in `torchrun`, the store exists before the processes, so that no other program can take its port.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.start_processes(_run, (world, store.port, function, args), nprocs=world, start_method="forkserver", join=True)


def torchrun(*arguments: str, world_size: int = 2) -> subprocess.CompletedProcess[str]:
    """Run `torchrun -m cogvideox ARGUMENTS` on a free port."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    command = [sys.executable, *launch, "-m", "cogvideox", *arguments]
    return subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )


def _run(rank: int, world: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    function(*args)


def _with_ranks(sequence: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    with mesh.init_ranks(sequence=sequence, device="cpu") as ranks:
        function(ranks, *args)
