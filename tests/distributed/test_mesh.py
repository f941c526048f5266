"""Ranks: process groups, collectives on objects, and errors."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from cogvideox.diffusion.timesteps import explicit_uniform
from cogvideox.errors import UserError
from cogvideox.parallel import environment, mesh
from cogvideox.parallel.mesh import Ranks
from tests.distributed.spawn import on_ranks


def check_groups(ranks: Ranks) -> None:
    assert (ranks.size, ranks.data.size(), ranks.sequence.size()) == (4, 2, 2)
    assert (ranks.data.rank(), ranks.sequence.rank()) == divmod(ranks.rank, 2)
    assert ranks.device.type == "cpu"
    # The timeout is long, because one rank may work for hours while the others wait.
    assert ranks.object_group._get_backend(ranks.device).options._timeout > timedelta(days=1)


def check_objects(ranks: Ranks) -> None:
    assert ranks.run_on_rank_zero(lambda: ["from", ranks.rank]) == ["from", 0]

    def fail() -> None:
        raise UserError("rank 0 failed")

    with pytest.raises(UserError, match="rank 0 failed"):
        ranks.run_on_rank_zero(fail)
    with pytest.raises(ZeroDivisionError):  # on every rank, so that no rank waits forever
        ranks.run_on_rank_zero(lambda: 1 // 0)

    def fail_on_rank_1() -> int:
        if ranks.rank == 1:
            raise UserError("rank 1 failed")
        return ranks.rank

    with pytest.raises(UserError, match="rank 1 failed"):
        ranks.run_on_all(fail_on_rank_1)
    assert ranks.run_on_all(lambda: ranks.rank) == ranks.rank
    assert ranks.all_gather_objects("ab"[ranks.rank]) == ["a", "b"]


def check_timesteps(ranks: Ranks) -> None:
    """The timesteps of all data-parallel ranks together are those of one process."""
    own = explicit_uniform(3, 17, 12).tensor_split(ranks.data.size())[ranks.data.rank()]
    gathered = ranks.all_gather_objects(own.tolist())
    timesteps = [t for slots in gathered[:: ranks.sequence.size()] for t in slots]
    assert timesteps == explicit_uniform(3, 17, 12).tolist()
    assert gathered[ranks.rank] == gathered[ranks.rank // ranks.sequence.size() * ranks.sequence.size()]


def test_data_and_sequence_groups():
    on_ranks(4, check_groups, sequence=2)


def test_objects_and_errors_reach_all_ranks():
    on_ranks(2, check_objects)


@pytest.mark.parametrize(("world", "sequence"), [(2, 1), (4, 2)])
def test_explicit_uniform_timesteps_over_ranks(world, sequence):
    on_ranks(world, check_timesteps, sequence=sequence)


def test_sequence_must_divide_the_world_size():
    with pytest.raises(UserError, match=r"sequence=4 must divide the number of processes, 6; valid values: 1, 2, 3, 6"):
        mesh.check_divides(6, 4)


def test_init_without_torchrun_is_rejected(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert environment.world_size() == 1
    with pytest.raises(UserError, match="torchrun"), mesh.init_ranks():
        pass


def test_missing_gpus_and_unknown_devices_are_rejected(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "999", "LOCAL_WORLD_SIZE": "999"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UserError, match=r"need \d+ GPUs"), mesh.init_ranks(device="cuda"):
        pass
    with pytest.raises(UserError, match="auto, cpu or cuda"), mesh.init_ranks(device="tpu"):
        pass


@pytest.mark.parametrize(("device", "abort"), [("cpu", False), ("cuda", True)])
def test_a_rank_that_fails_does_not_wait_for_the_others(device, abort, monkeypatch):
    """With NCCL, destroying the groups would wait for collectives that the others never finish."""
    calls = []
    monkeypatch.setattr("torch.distributed.distributed_c10d._abort_process_group", lambda: calls.append("abort"))
    monkeypatch.setattr(mesh.dist, "destroy_process_group", lambda: calls.append("destroy"))
    mesh._shut_down(torch.device(device), failed=True)
    mesh._shut_down(torch.device(device), failed=False)
    assert calls == ["abort" if abort else "destroy", "destroy"]


def test_groups_are_shut_down_after_an_error(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in {**environment, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    calls, actual = [], mesh._shut_down
    monkeypatch.setattr(
        mesh, "_shut_down", lambda device, failed: calls.append(failed) or actual(device, failed=failed)
    )
    with mesh.init_ranks(device="cpu"):
        pass
    with pytest.raises(KeyboardInterrupt), mesh.init_ranks(device="cpu"):
        raise KeyboardInterrupt
    assert calls == [False, True] and not dist.is_initialized()
