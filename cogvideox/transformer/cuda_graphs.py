"""CUDA graphs: a function of tensors is recorded once for each shape, and then replayed by one launch.

Where kernels are shorter than it takes to launch them, as in small models and clips, a GPU waits for the program most
of the time, and a replay does not.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Function = Callable[..., Tensor]


class GraphedFunction:
    """A function of tensors, by graphs. Outside of CUDA it is the function itself.

    The function must do the same whenever it is called with tensors of the same shapes, read no tensor on the host and
    change none that it did not make. Tensors that it holds on to, such as weights, are read where they lay when it was
    recorded, so that it has to be dropped when they are replaced.
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
        # First calls allocate and choose algorithms, which must not be recorded.
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
        # In rows, so that strides of dimensions of size 1 do not keep PyTorch from copying all of them in one launch.
        torch._foreach_copy_([x.view(-1) for x in self.inputs], [x.reshape(-1) for x in inputs])
        self.graph.replay()
        return self.output.clone()  # the next replay writes where this one did


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream per device. PyTorch's default is one for the process, on the device that was captured first."""
    return torch.cuda.Stream(device)
