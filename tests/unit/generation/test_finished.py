"""Latents that are finished are found again by the request that they are of, and by no other."""

import pytest
import torch

from cogvideox.bundle.layout import describe
from cogvideox.bundle.vae_sizes import Decoding
from cogvideox.generation.demand import default_demand, demand_of, is_out_of_memory, smaller
from cogvideox.generation.finished import Finished
from cogvideox.generation.prepare import complete


def test_they_are_found_again_with_the_random_numbers_that_follow(tmp_path):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 3, 2, 2, generator=generator)
    Finished(tmp_path / "x.latents.safetensors", {"seed": 5}).put(0, latents, generator)
    following = torch.randn(3, generator=generator)

    again = Finished(tmp_path / "x.latents.safetensors", {"seed": 5})
    other = torch.Generator()
    assert again.get(1, other) is None
    assert torch.equal(again.get(0, other), latents)
    assert torch.equal(torch.randn(3, generator=other), following)
    assert Finished(tmp_path / "x.latents.safetensors", {"seed": 6}).get(0, other) is None
    again.remove()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    finished = Finished(tmp_path / "file" / "x.latents.safetensors", {})
    with pytest.warns(UserWarning, match="not kept"):
        finished.put(0, torch.zeros(1, 1, 1, 1, 1), torch.Generator())


def test_what_is_asked_of_memory():
    about = describe("toybox")
    assert default_demand(about) == demand_of(complete(about, None, seed=0), about)
    long = complete(about, "a ball", num_frames=25, window=9, guidance_scale=1, seed=0)
    demand = demand_of(long, about)
    assert (demand.at_once, demand.num_frames, demand.batch, demand.num_texts) == (9, 25, 1, 1)
    halves = demand_of(complete(about, "a ball", sequential_guidance=True, seed=0), about)
    assert (halves.batch, halves.calls) == (1, 2)


def test_smaller_and_smaller_until_nothing_is_left():
    how, seen = Decoding(), []
    while how is not None:
        seen.append((how.strips, how.offload))
        how = smaller(how, rows=6)
    assert seen == [(1, False), (2, False), (4, False), (6, False), (6, True)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, expected):
    assert is_out_of_memory(error) is expected
