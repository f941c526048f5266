"""The ranks started by `torchrun`, as a 2D mesh of data x sequence parallelism.

Ranks of a `sequence` group split the tokens (or frames) of the same samples; ranks of a `data` group process different
samples.
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

from cogvideox.device import choose_device
from cogvideox.errors import UserError
from cogvideox.parallel import environment

T = TypeVar("T")

_OBJECT_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process and its process groups. Created by `init_ranks`."""

    device: torch.device
    """Device of this process."""
    mesh: DeviceMesh
    """All ranks, as data x sequence."""
    world_mesh: DeviceMesh
    """All ranks, as one dimension."""
    object_group: ProcessGroup
    """All ranks, for Python objects; with a long timeout, because ranks may wait for hours while rank 0 encodes."""

    @property
    def rank(self) -> int:
        """Global rank of this process."""
        return self.world_mesh.get_rank()

    @property
    def size(self) -> int:
        """World size."""
        return self.world_mesh.size()

    @property
    def world(self) -> ProcessGroup:
        """All ranks."""
        return self.world_mesh.get_group()

    @property
    def data(self) -> ProcessGroup:
        """Data-parallel group: ranks with the same part of different samples."""
        return self.mesh.get_group("data")

    @property
    def sequence(self) -> ProcessGroup:
        """Sequence-parallel group: ranks with different parts of the same samples."""
        return self.mesh.get_group("sequence")

    def regroup(self, sequence: int) -> "Ranks":
        """Return the same ranks in a mesh with a different sequence-parallel degree. Collective.

        Raises:
            UserError: `sequence` does not divide the world size.
        """
        check_divides(self.size, sequence)
        return replace(self, mesh=_mesh(self.device, self.size, sequence))

    def run_on_rank_zero(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0 and return its result, or raise its exception, on every rank."""
        result: list[Any] = [None, None]
        if self.rank == 0:
            try:
                result[0] = function()
            except Exception as error:  # also raised on the other ranks, which would hang otherwise
                result[1] = error
        dist.broadcast_object_list(result, src=0, group=self.object_group)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def run_on_all(self, function: Callable[[], T]) -> T:
        """Call `function` on every rank and return this rank's result.

        Raises:
            UserError: `function` failed on a rank. Every rank raises the error of the first rank that failed.
        """
        result, own_error = None, None
        try:
            result = function()
        except UserError as error:
            own_error = error
        for error in self.all_gather_objects(own_error):
            if error is not None:
                raise error
        return result  # pyrefly: ignore[bad-return]

    def all_gather_objects(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of ranks. Values are pickled."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.object_group)
        return values


@contextmanager
def init_ranks(*, sequence: int = 1, device: str = "auto") -> Iterator[Ranks]:
    """Initialize `torch.distributed` and shut it down at the end.

    Args:
        sequence: sequence-parallel degree, the number of ranks that split a sample.
        device: "cuda" (NCCL) or "cpu" (Gloo); "auto" is CUDA if there is a GPU for each process on this machine.

    Raises:
        UserError: the process was not started by `torchrun`, there are too few GPUs, or `sequence` does not divide the
            world size.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} are not set: start several processes with "
            "`torchrun --standalone --nproc-per-node 2 -m cogvideox ...`"
        )
    environment.rank(), environment.local_rank()  # checked before torch reads them
    world = environment.world_size()
    check_divides(world, sequence)
    torch_device = _rank_device(device)
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    dist.init_process_group("nccl" if torch_device.type == "cuda" else "gloo")
    try:
        world_mesh = init_device_mesh(torch_device.type, (world,), mesh_dim_names=("ranks",))
        object_group = dist.new_group(timeout=_OBJECT_TIMEOUT, backend="gloo")
        assert isinstance(object_group, ProcessGroup)
        yield Ranks(torch_device, _mesh(torch_device, world, sequence), world_mesh, object_group)
    except BaseException:
        _shut_down(torch_device, failed=True)
        raise
    _shut_down(torch_device, failed=False)


def _shut_down(device: torch.device, *, failed: bool) -> None:
    if failed and device.type == "cuda":
        # Destroying the groups would wait for pending collectives, which other ranks may never finish.
        from torch.distributed.distributed_c10d import _abort_process_group  # private: imported only when needed

        _abort_process_group()
    else:
        dist.destroy_process_group()


def _mesh(device: torch.device, world: int, sequence: int) -> DeviceMesh:
    return init_device_mesh(device.type, (world // sequence, sequence), mesh_dim_names=("data", "sequence"))


def check_divides(world: int, sequence: int) -> None:
    """Check that the sequence-parallel degree divides the world size.

    Raises:
        UserError: it does not.
    """
    if sequence < 1 or world % sequence:
        valid = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
        raise UserError(f"sequence={sequence} must divide the number of processes, {world}; valid values: {valid}")


def choose_process_device(device: str) -> torch.device:
    """Return the device of this process, the only one (`choose_device`) or one of several (`init_ranks`).

    Raises:
        UserError: the device is not available; with several processes, there are too few GPUs, or the device is not
            supported.
    """
    return _rank_device(device) if environment.world_size() > 1 else choose_device(device)


def _rank_device(device: str) -> torch.device:
    num_local = environment.local_world_size()
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and num_gpus < num_local):
        return torch.device("cpu")
    if device not in ("auto", "cuda"):
        raise UserError(f"device={device!r} is not supported with several processes; use auto, cpu or cuda")
    if num_gpus < num_local:
        raise UserError(f"{num_local} processes on this machine need {num_local} GPUs, but it has {num_gpus}")
    return torch.device("cuda", environment.local_rank())
