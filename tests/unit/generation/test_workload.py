"""Workload of a request for the memory planner, and fallbacks after an out-of-memory error."""

import pytest
import torch

from cogvideox.errors import is_out_of_memory
from cogvideox.generation.request.builder import complete_request
from cogvideox.generation.workload import default_workload, smaller_slicing, workload_of
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload.vae_cost import VAESlicing


def test_workload_of_a_request():
    spec = read_spec("toybox")
    assert default_workload(spec) == workload_of(complete_request(spec, None, seed=0), spec)
    long = complete_request(spec, "a ball", num_frames=25, window=9, guidance_scale=1, seed=0)
    workload = workload_of(long, spec)
    assert (workload.window_frames, workload.num_frames, workload.batch_size, workload.num_prompts) == (9, 25, 1, 1)
    halves = workload_of(complete_request(spec, "a ball", sequential_guidance=True, seed=0), spec)
    assert (halves.batch_size, halves.calls_per_step) == (1, 2)


def test_slices_get_smaller_until_none_is_left():
    slicing, seen = VAESlicing(), []
    while slicing is not None:
        seen.append((slicing.strips, slicing.offload))
        slicing = smaller_slicing(slicing, num_rows=6)
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
def test_out_of_memory_errors_are_recognized(error, expected):
    assert is_out_of_memory(error) is expected
