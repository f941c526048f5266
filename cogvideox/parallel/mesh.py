"""The processes that `torchrun` has started, as a grid of data x sequence.

Ranks of one row of `sequence` share the tokens (or the frames) of the same samples; ranks of one column of `data` have
samples of their own.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _abort_process_group

from cogvideox.errors import UserError

T = TypeVar("T")

_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process among the others. Make one with `start`."""

    device: torch.device
    """Of this process alone."""
    mesh: DeviceMesh
    """All ranks as data x sequence."""
    world_mesh: DeviceMesh
    """All ranks in a row."""
    object_group: ProcessGroup
    """All ranks, for objects on the CPU, with patience: one may encode videos for hours while the others wait."""

    @property
    def rank(self) -> int:
        return self.world_mesh.get_rank()

    @property
    def size(self) -> int:
        return self.world_mesh.size()

    @property
    def world(self) -> ProcessGroup:
        return self.world_mesh.get_group()

    @property
    def data(self) -> ProcessGroup:
        """Ranks that work on other samples, and at the same place of them."""
        return self.mesh.get_group("data")

    @property
    def sequence(self) -> ProcessGroup:
        """Ranks that share this rank's samples."""
        return self.mesh.get_group("sequence")

    def regroup(self, sequence: int) -> "Ranks":
        """The same ranks in another grid; called by all of them.

        Raises:
            UserError: they are not whole groups of `sequence`.
        """
        check_divides(self.size, sequence)
        return replace(self, mesh=_mesh(self.device, self.size, sequence))

    def run_on_rank_zero(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; the others do not make it. What it raises, all raise."""
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = make()
            except Exception as error:  # told to the others, which would wait for ever
                answer[1] = error
        dist.broadcast_object_list(answer, src=0, group=self.object_group)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def run_on_all(self, make: Callable[[], T]) -> T:
        """What every rank makes for itself, unless one of them fails: then none goes on.

        Raises:
            UserError: on every rank the first one that a rank met.
        """
        made, own = None, None
        try:
            made = make()
        except UserError as error:
            own = error
        for error in self.all_gather_objects(own):
            if error is not None:
                raise error
        return made  # pyrefly: ignore[bad-return]

    def all_gather_objects(self, own: T) -> list[T]:
        """What each rank has, rank by rank, on all of them; any object that can be pickled."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own, group=self.object_group)
        return found


def world_size() -> int:
    """How many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def init_ranks(*, sequence: int = 1, device: str = "auto") -> Iterator[Ranks]:
    """Joins the processes that `torchrun` has started, and leaves them at the end.

    Args:
        sequence: how many ranks share a sample.
        device: "cuda" (by NCCL) or "cpu" (by Gloo); "auto" is CUDA where each process of this machine has a GPU.

    Raises:
        UserError: the process was not started by `torchrun`; too few GPUs; ranks that `sequence` does not divide.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} are not set, so this is not one of several processes: start them with "
            "`torchrun --standalone --nproc-per-node 2 -m cogvideox ...`"
        )
    world = world_size()
    check_divides(world, sequence)
    place = _device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        world_mesh = init_device_mesh(place.type, (world,), mesh_dim_names=("ranks",))
        object_group = dist.new_group(timeout=_PATIENCE, backend="gloo")
        assert isinstance(object_group, ProcessGroup)
        yield Ranks(place, _mesh(place, world, sequence), world_mesh, object_group)
    except BaseException:
        _leave(place, failed=True)
        raise
    _leave(place, failed=False)


def _leave(device: torch.device, *, failed: bool) -> None:
    if failed and device.type == "cuda":
        # Destroying waits for collectives that are under way, and other ranks may wait in them for this one.
        _abort_process_group()
    else:
        dist.destroy_process_group()


def _mesh(device: torch.device, world: int, sequence: int) -> DeviceMesh:
    return init_device_mesh(device.type, (world // sequence, sequence), mesh_dim_names=("data", "sequence"))


def check_divides(world: int, sequence: int) -> None:
    """Whether so many ranks are whole rows of `sequence`.

    Raises:
        UserError: they are not.
    """
    if sequence < 1 or world % sequence:
        legal = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
        raise UserError(f"{world} processes are not whole groups of sequence={sequence}; it can be one of {legal}")


def _device(wanted: str) -> torch.device:
    local, num_local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and num_gpus < num_local):
        return torch.device("cpu")
    if wanted not in ("auto", "cuda"):
        raise UserError(f"device={wanted!r} is not possible with several processes; it can be auto, cpu or cuda")
    if num_gpus < num_local:
        raise UserError(f"{num_local} processes on this machine need a GPU each, and it has {num_gpus}")
    return torch.device("cuda", local)
