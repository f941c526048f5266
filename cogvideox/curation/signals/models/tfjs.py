"""Inference of convolutional networks in the graph format of TensorFlow.js: a JSON file and a file of weights.

Only the operations of the detector of `objects` are implemented. Tensors are NHWC, as in the file.
"""

import base64
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.untrusted.files import parse_json, read_bytes

_RELU = {"Relu": torch.relu, "Relu6": F.relu6}


class Graph:
    """A network, loaded from files.

    Raises:
        KeyError, ValueError, TypeError: the files are not a graph in this format.
    """

    def __init__(self, graph: Path, weights: Path) -> None:
        data = parse_json(read_bytes(graph))
        self.nodes: dict[str, dict[str, Any]] = {node["name"]: node for node in data["modelTopology"]["node"]}
        self.constants = _read_weights(data["weightsManifest"][0]["weights"], weights.read_bytes())

    def run(self, inputs: dict[str, Tensor], outputs: Iterable[str]) -> list[Tensor]:
        """Return the tensors with these names."""
        outputs = list(outputs)
        order = self._order(outputs, inputs)
        num_uses = Counter(outputs)
        for name in order:
            num_uses.update(self._arguments(name))
        values = dict(inputs)
        for name in order:
            arguments = self._arguments(name)
            node = self.nodes[name]
            tensors = [
                self.constants[argument] if argument in self.constants else values[argument] for argument in arguments
            ]
            values[name] = OPERATIONS[node["op"]](node.get("attr", {}), *tensors)
            del tensors
            num_uses.subtract(arguments)
            for argument in set(arguments):
                if not num_uses[argument]:  # activations of the whole network take gigabytes
                    values.pop(argument, None)
        return [self.constants[name] if name in self.constants else values[name] for name in outputs]

    def _arguments(self, name: str) -> list[str]:
        return [reference.split(":")[0] for reference in self.nodes[name].get("input", ())]

    def _order(self, outputs: Iterable[str], inputs: Collection[str]) -> list[str]:
        """Return the nodes that `outputs` need, each after its arguments."""
        order: dict[str, None] = {}

        def visit(name: str) -> None:
            if name not in order and name not in inputs and name not in self.constants:
                for argument in self._arguments(name):
                    visit(argument)
                order[name] = None

        for name in outputs:
            visit(name)
        return list(order)


def _read_weights(specifications: list[dict[str, Any]], content: bytes) -> dict[str, Tensor]:
    weights, position = {}, 0
    for specification in specifications:
        dtype = np.dtype({"float32": "<f4", "int32": "<i4", "float16": "<f2"}[_stored_type(specification)])
        count = int(np.prod(specification["shape"], dtype=np.int64))
        array = np.frombuffer(content, dtype, count, position).reshape(specification["shape"])
        position += count * dtype.itemsize
        weights[specification["name"]] = torch.from_numpy(array.astype(np.dtype(specification["dtype"])))
    return weights


def _stored_type(specification: dict[str, Any]) -> str:
    return specification.get("quantization", {}).get("dtype", specification["dtype"])


def _text(attribute: dict[str, Any]) -> str:
    return base64.b64decode(attribute["s"]).decode()


def _convolve(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None, depthwise: bool) -> Tensor:
    """Convolve; TensorFlow's weights are `h w in out`, and `h w in 1` in depthwise convolutions."""
    strides = [int(value) for value in attributes["strides"]["list"]["i"][1:3]]
    x = x.permute(0, 3, 1, 2)
    if _text(attributes["padding"]) == "SAME":
        padding: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], weight.shape[1::-1], strides[::-1], strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            padding += [total // 2, total - total // 2]
        x = F.pad(x, padding)
    weight = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
    y = F.conv2d(x, weight, bias, strides, groups=x.shape[1] if depthwise else 1).permute(0, 2, 3, 1)
    for operation in attributes.get("fused_ops", {}).get("list", {}).get("s", ())[1:]:
        y = _RELU[base64.b64decode(operation).decode()](y)
    return y


def _resize(attributes: dict[str, Any], x: Tensor, size: Tensor) -> Tensor:
    """Resize bilinearly; pixel i of the output is at i * (input size / output size) of the input."""
    for axis, target in zip((1, 2), size.tolist(), strict=True):
        position = torch.arange(target) * (x.shape[axis] / target)
        low = position.long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        weight = (position - low).reshape([-1 if dimension == axis else 1 for dimension in range(4)])
        x = x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight
    return x


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Conv2D": lambda attributes, x, weight: _convolve(attributes, x, weight, None, False),
    "_FusedConv2D": lambda attributes, x, weight, bias: _convolve(attributes, x, weight, bias, False),
    "DepthwiseConv2dNative": lambda attributes, x, weight: _convolve(attributes, x, weight, None, True),
    "FusedDepthwiseConv2dNative": lambda attributes, x, weight, bias: _convolve(attributes, x, weight, bias, True),
    "Add": lambda _, x, y: x + y,
    "Mul": lambda _, x, y: x * y,
    "Relu": lambda _, x: torch.relu(x),
    "Relu6": lambda _, x: F.relu6(x),
    "Sigmoid": lambda _, x: torch.sigmoid(x),
    "Identity": lambda _, x: x,
    "Mean": lambda attributes, x, axes: x.mean(axes.tolist(), keepdim=attributes["keep_dims"]["b"]),
    "ConcatV2": lambda _, *parts: torch.cat(parts[:-1], int(parts[-1])),
    "ResizeBilinear": _resize,
}
