"""The linear layer equals PyTorch's: forward, with GELU, backward, and for inputs that oneDNN does not support."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import library, nn

from cogvideox.linear import Linear, linear

SHAPES = [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 7)]


@pytest.fixture
def layers() -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    layer = Linear(7, 5)
    reference = nn.Linear(7, 5)
    reference.load_state_dict(layer.state_dict())
    return layer, reference


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gelu", [False, True])
def test_linear_equals_pytorch(layers, shape, gelu):
    layer, reference = layers
    x = torch.randn(shape)
    expected = F.gelu(reference(x), approximate="tanh") if gelu else reference(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, gelu=gelu), expected)
    torch.testing.assert_close(layer(x, gelu=gelu), expected)


def test_gelu_is_accurate_over_its_whole_range():
    x = torch.linspace(-12, 12, 4801)[:, None]
    exact = F.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(linear(x, torch.ones(1, 1), gelu=True).double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trained", ["all", "input", "weight", "bias"])
def test_gradients_equal_pytorch(layers, shape, trained):
    gradients = []
    for layer in layers:
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
        tensors = {"input": x, "weight": layer.weight, "bias": layer.bias}
        for name, tensor in tensors.items():
            tensor.requires_grad_(trained in ("all", name))
        layer(x).sin().sum().backward()
        gradients.append([tensor.grad for tensor in tensors.values()])
    for actual, expected in zip(*gradients):
        torch.testing.assert_close(actual, expected)


def test_strided_inputs_and_missing_bias():
    x, weight = torch.randn(2, 7, 3).transpose(1, 2), torch.randn(7, 10)[:, ::2].t()
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_empty_inputs(layers, dtype):
    layer, reference = (copy.deepcopy(layer).to(dtype) for layer in layers)
    x = torch.randn(3, 7, dtype=dtype)
    torch.testing.assert_close(layer(x), reference(x))
    assert layer(x[:0]).shape == (0, 5)
    assert layers[0](torch.randn(0, 7)).shape == (0, 5)


@torch.no_grad()
def test_bfloat16_with_gelu_is_rounded_once_at_most_twice(layers):
    layer, reference = (copy.deepcopy(layer).bfloat16() for layer in layers)
    x = torch.randn(50, 7).bfloat16()
    exact = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double()), approximate="tanh")
    error, pytorch_error = (
        (out.double() - exact).norm() for out in (layer(x, gelu=True), F.gelu(reference(x), approximate="tanh"))
    )
    assert error <= 1.1 * pytorch_error


def test_autocast_sets_the_dtype(layers):
    with torch.autocast("cpu", torch.bfloat16):
        assert layers[0](torch.randn(3, 7)).dtype == torch.bfloat16


def test_meta_device():
    assert Linear(7, 5, device="meta")(torch.randn(3, 7, device="meta"), gelu=True).shape == (3, 5)


def test_compiled_operator_equals_linear(layers):
    """Compiled code calls a custom operator, whose fake implementation gives the shape."""
    layer, reference = layers
    x = torch.randn(2, 3, 7)
    with torch.no_grad():
        library.opcheck(torch.ops.cogvideox.linear.default, (x, layer.weight, layer.bias, False))
        torch.testing.assert_close(torch.ops.cogvideox.linear(x, layer.weight, layer.bias, False), reference(x))
