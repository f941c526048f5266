"""RAFT against a second implementation, written out from the paper's equations and the original's file format."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.evaluation.models.raft import RAFT, load_raft, pad_images

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """A state dict with the names of the original, as saved by data-parallel training, with random values."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in RAFT().state_dict().items():
        if not tensor.is_floating_point():
            tensors[name] = tensor
        elif name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            tensors[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif tensor.dim() == 4:
            tensors[name] = torch.randn(tensor.shape, generator=generator) * (1.6 / tensor[0].numel()) ** 0.5
        else:
            tensors[name] = 0.1 * torch.randn(tensor.shape, generator=generator)
    for name in [name for name in tensors if ".downsample.1." in name]:  # the original registers this norm twice
        tensors[name.replace("downsample.1", "norm3")] = tensors[name]
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"module.{name}.weight"].double()
    padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    return F.conv2d(x, weight, state[f"module.{name}.bias"].double(), stride, padding)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    if f"module.{name}.running_mean" not in state:  # instance norm
        mean, variance = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt()
    values = [
        state[f"module.{name}.{key}"].double().view(1, -1, 1, 1)
        for key in ("running_mean", "running_var", "weight", "bias")
    ]
    return (x - values[0]) / (values[1] + 1e-5).sqrt() * values[2] + values[3]


def encode(state: State, net: str, x: Tensor) -> Tensor:
    x = norm(state, f"{net}.norm1", conv(state, f"{net}.conv1", x, 2)).relu()
    for layer in (1, 2, 3):
        for index in (0, 1):
            block, stride = f"{net}.layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1
            y = norm(state, f"{block}.norm1", conv(state, f"{block}.conv1", x, stride)).relu()
            y = norm(state, f"{block}.norm2", conv(state, f"{block}.conv2", y)).relu()
            if stride == 2:
                x = norm(state, f"{block}.norm3", conv(state, f"{block}.downsample.0", x, 2))
            x = (x + y).relu()
    return conv(state, f"{net}.conv2", x)


def bilinear(image: Tensor, x: float, y: float) -> float:
    """Value at a position; pixels outside of the image are 0."""
    left, top, value = math.floor(x), math.floor(y), 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            value += float(image[row, column]) * (1 - abs(x - column)) * (1 - abs(y - row))
    return value


def reference_flow(state: State, first: Tensor, second: Tensor, num_updates: int) -> Tensor:
    """RAFT of one pair, position by position, in float64."""
    first, second = (2 * images.double() / 255 - 1 for images in (first, second))
    features, others = encode(state, "fnet", first)[0], encode(state, "fnet", second)[0]
    hidden, context = encode(state, "cnet", first).split(128, dim=1)
    hidden, context = hidden.tanh(), context.relu()
    _, h, w = features.shape
    flow = torch.zeros(1, 2, h, w, dtype=torch.float64)
    mask = torch.zeros(0)
    for _ in range(num_updates):
        correlations = torch.zeros(1, 4 * 81, h, w, dtype=torch.float64)
        for i in range(h):
            for j in range(w):
                plane = torch.einsum("c,chw->hw", features[:, i, j], others) / 16  # the square root of 256 channels
                for level in range(4):
                    x, y = ((j, i)[axis] + float(flow[0, axis, i, j]) for axis in (0, 1))
                    for a in range(9):
                        for b in range(9):
                            value = bilinear(plane, x / 2**level + a - 4, y / 2**level + b - 4)
                            correlations[0, level * 81 + a * 9 + b, i, j] = value
                    plane = F.avg_pool2d(plane[None, None], 2)[0, 0]
        block = "update_block"
        c = conv(state, f"{block}.encoder.convc2", conv(state, f"{block}.encoder.convc1", correlations).relu()).relu()
        f = conv(state, f"{block}.encoder.convf2", conv(state, f"{block}.encoder.convf1", flow).relu()).relu()
        motion = conv(state, f"{block}.encoder.conv", torch.cat([c, f], 1)).relu()
        inputs = torch.cat([context, motion, flow], 1)
        for step in (1, 2):
            z = conv(state, f"{block}.gru.convz{step}", torch.cat([hidden, inputs], 1)).sigmoid()
            r = conv(state, f"{block}.gru.convr{step}", torch.cat([hidden, inputs], 1)).sigmoid()
            q = conv(state, f"{block}.gru.convq{step}", torch.cat([r * hidden, inputs], 1)).tanh()
            hidden = (1 - z) * hidden + z * q
        flow = flow + conv(state, f"{block}.flow_head.conv2", conv(state, f"{block}.flow_head.conv1", hidden).relu())
        mask = 0.25 * conv(state, f"{block}.mask.2", conv(state, f"{block}.mask.0", hidden).relu())
    result = torch.zeros(1, 2, 8 * h, 8 * w, dtype=torch.float64)
    padded = F.pad(8 * flow, (1, 1, 1, 1))
    for i in range(h):
        for j in range(w):
            weights = mask[0, :, i, j].view(9, 8, 8).softmax(0)
            near = padded[0, :, i : i + 3, j : j + 3].reshape(2, 9)
            result[0, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = torch.einsum("ck,kyx->cyx", near, weights)
    return result


@torch.inference_mode()
def test_raft_equals_the_reference(state, tmp_path):
    torch.save(state, tmp_path / "raft.pth")
    network = load_raft(tmp_path / "raft.pth")
    generator = torch.Generator().manual_seed(1)
    first, second = (255 * torch.rand(1, 3, 128, 128, generator=generator) for _ in range(2))
    expected = reference_flow(state, first, second, 2)
    flow = network(first, second, num_updates=2)
    assert flow.shape == (1, 2, 128, 128) and expected.abs().mean() > 0.1
    torch.testing.assert_close(flow.double(), expected, atol=1e-3, rtol=1e-3)


def test_padding_repeats_edges_and_puts_the_extra_pixel_at_the_end():
    images = torch.arange(3.0).view(1, 1, 1, 3).expand(1, 1, 7, 3)
    padded = pad_images(images)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_a_checkpoint_of_another_network_is_an_error(tmp_path):
    torch.save({"fnet.conv1.weight": torch.zeros(1)}, tmp_path / "raft.pth")
    with pytest.raises(UserError, match="do not match"):
        load_raft(tmp_path / "raft.pth")
