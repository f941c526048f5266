"""What a request asks of memory, and what is tried where there is too little of it."""

import pytest
import torch

from cogvideox.errors import is_out_of_memory
from cogvideox.generation.memory import default_demand, demand_of, smaller
from cogvideox.generation.request.builder import complete
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode


def test_what_is_asked_of_memory():
    spec = read_spec("toybox")
    assert default_demand(spec) == demand_of(complete(spec, None, seed=0), spec)
    long = complete(spec, "a ball", num_frames=25, window=9, guidance_scale=1, seed=0)
    demand = demand_of(long, spec)
    assert (demand.window_frames, demand.num_frames, demand.batch_size, demand.num_prompts) == (9, 25, 1, 1)
    halves = demand_of(complete(spec, "a ball", sequential_guidance=True, seed=0), spec)
    assert (halves.batch_size, halves.calls_per_step) == (1, 2)


def test_smaller_and_smaller_until_nothing_is_left():
    how, seen = VAEMemoryMode(), []
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
