"""Fallbacks after an out-of-memory error."""

import pytest
import torch

from cogvideox.errors import is_out_of_memory
from cogvideox.generation.out_of_memory import none_if_out_of_memory, smaller_slicing
from cogvideox.pretrained.offload.vae_cost import VAESlicing


def test_slicing_is_reduced_to_one_row_per_strip_and_then_offloaded():
    slicing, slicings = VAESlicing(), []
    while slicing is not None:
        slicings.append((slicing.strips, slicing.offload))
        slicing = smaller_slicing(slicing, num_rows=6)
    assert slicings == [(1, False), (2, False), (4, False), (6, False), (6, True)]


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


def test_only_out_of_memory_errors_are_caught():
    assert none_if_out_of_memory(lambda: 5) == 5
    assert none_if_out_of_memory(lambda: torch.empty(10**15)) is None
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        none_if_out_of_memory(lambda: torch.ones(2, 3) @ torch.ones(2, 3))
