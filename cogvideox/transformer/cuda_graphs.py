"""CUDA graphs: record a function of tensors once for each shape, and replay it with a single launch.

For small models and clips, kernels are shorter than the time to launch them, so without graphs the GPU is idle most of
the time.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Function = Callable[..., Tensor]


class GraphedFunction:
    """A function of tensors that is replayed as a CUDA graph; on other devices the function itself.

    The function must run the same operations for equal shapes, not read tensors on the host, and not modify its inputs.
    Captured tensors, such as weights, are read at the addresses that they had when it was recorded: create a new
    `GraphedFunction` after they have been replaced.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.recorded: dict[tuple, _Recorded] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not inputs[0].is_cuda:
            return self.function(*inputs)
        key = tuple((x.shape, x.dtype, x.device) for x in inputs)
        if key not in self.recorded:
            self.recorded[key] = _Recorded(self.function, inputs)
        return self.recorded[key](inputs)


class _Recorded:
    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
        # The first calls allocate memory and select algorithms, which must not be recorded.
        device = inputs[0].device
        current, side = torch.cuda.current_stream(device), _capture_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):
                function(*self.inputs)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=side):
            self.output = function(*self.inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        # Flattened, because differing strides of dimensions of size 1 would prevent a copy in one launch.
        torch._foreach_copy_([x.view(-1) for x in self.inputs], [x.reshape(-1) for x in inputs])
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites the output


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One capture stream for each device; PyTorch has one for the process, on the first device that is captured."""
    return torch.cuda.Stream(device)
