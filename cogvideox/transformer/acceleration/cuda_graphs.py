"""CUDA graphs: record a function of tensors once per shape, and replay it with a single launch.

For small models and clips, launching a kernel takes longer than running it, so the GPU is mostly idle without graphs.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Function = Callable[..., Tensor]


class GraphedFunction:
    """A function of tensors, replayed as a CUDA graph on GPUs and called directly on other devices.

    The function must run the same operations for equal shapes, must not read tensors on the host, and must not modify
    its inputs. Captured tensors, such as weights, are read at the addresses that they had during recording: create a
    new `GraphedFunction` after replacing them.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.graphs: dict[tuple, _RecordedGraph] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not inputs[0].is_cuda:
            return self.function(*inputs)
        key = tuple((x.shape, x.dtype, x.device) for x in inputs)
        if key not in self.graphs:
            self.graphs[key] = _RecordedGraph(self.function, inputs)
        return self.graphs[key](inputs)


class _RecordedGraph:
    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
        # The first calls allocate memory and select algorithms, which must not be recorded.
        device = inputs[0].device
        current_stream, capture_stream = torch.cuda.current_stream(device), _capture_stream(device)
        capture_stream.wait_stream(current_stream)
        with torch.cuda.stream(capture_stream):
            for _ in range(2):
                function(*self.inputs)
        current_stream.wait_stream(capture_stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=capture_stream):
            self.output = function(*self.inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        # Flattened, because differing strides in dimensions of size 1 would prevent a copy in one launch.
        torch._foreach_copy_([x.view(-1) for x in self.inputs], [x.reshape(-1) for x in inputs])
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites the output


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the capture stream of a device; PyTorch has a single one, on the first device that is captured."""
    return torch.cuda.Stream(device)
