"""LPIPS compared with its definition for random weights, and the names and shapes in its weight files."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cogvideox.errors import UserError
from cogvideox.vae.losses.perceptual import LPIPS, VGG16

# Index, input and output channels of the convolutions in torchvision's `vgg16().features`.
CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip


@pytest.fixture(scope="module")
def trunk() -> dict[str, torch.Tensor]:
    """Return a state dict of torchvision's VGG16 with random values and a small classifier."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)}
    for index, (inputs, outputs) in CONVOLUTIONS.items():
        std = (2 / (9 * inputs)) ** 0.5
        state[f"features.{index}.weight"] = std * torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return state


@pytest.fixture(scope="module")
def heads() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    widths = (64, 128, 256, 512, 512)
    return {f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for k, width in enumerate(widths)}


@pytest.fixture(scope="module")
def files(trunk, heads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(trunk, folder / "vgg16.pth")
    save_file(heads, folder / "heads.safetensors")
    return folder / "vgg16.pth", folder / "heads.safetensors"


def reference_lpips(x, y, trunk, heads) -> list[float]:
    """Compute LPIPS by its definition, stage by stage and image by image."""
    stages = ([0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28])
    mean = (torch.tensor([0.485, 0.456, 0.406]) * 2 - 1).view(3, 1, 1)
    std = (torch.tensor([0.229, 0.224, 0.225]) * 2).view(3, 1, 1)
    distances = []
    for pair in zip(x, y, strict=True):
        a, b = ((image - mean) / std for image in pair)
        distance = 0.0
        for k, stage in enumerate(stages):
            if k:
                a, b = (nn.functional.max_pool2d(features, 2) for features in (a, b))
            for index in stage:
                weight, bias = trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"]
                a, b = (nn.functional.conv2d(image[None], weight, bias, padding=1)[0].relu() for image in (a, b))
            unit_a, unit_b = (features / features.square().sum(0).sqrt() for features in (a, b))
            weights = heads[f"lin{k}.model.1.weight"].flatten()
            distance += ((unit_a - unit_b) ** 2 * weights.view(-1, 1, 1)).sum(0).mean().item()
        distances.append(distance)
    return distances


def test_lpips_equals_its_definition(files, trunk, heads):
    lpips = LPIPS.load(*files)
    x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    # SHIFT and SCALE are the original implementation's, rounded to three digits.
    assert lpips(x, y).tolist() == pytest.approx(reference_lpips(x, y, trunk, heads), rel=2e-3)
    assert lpips(x, x).tolist() == [0.0, 0.0]
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_gradient_is_finite_where_all_features_are_zero(files):
    lpips = LPIPS.load(*files)
    for parameter in lpips.trunk.parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, -100.0)
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    lpips(x, torch.ones(1, 3, 32, 32)).sum().backward()
    assert x.grad.isfinite().all()


def test_vgg16_has_the_names_and_shapes_of_torchvision():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in VGG16().state_dict().items()}
    weights = {f"features.{k}.weight": (outputs, inputs, 3, 3) for k, (inputs, outputs) in CONVOLUTIONS.items()}
    assert shapes == weights | {f"features.{k}.bias": (outputs,) for k, (_, outputs) in CONVOLUTIONS.items()}
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 14_714_688


@pytest.mark.parametrize("incomplete", ["trunk", "heads"])
def test_incomplete_or_missing_files_are_rejected(incomplete, trunk, heads, tmp_path):
    states = {"trunk": dict(trunk), "heads": dict(heads)}
    missing = {"trunk": "features.28.bias", "heads": "lin4.model.1.weight"}[incomplete]
    del states[incomplete][missing]
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match=rf"{incomplete}\.pt do not match .* 1 tensor missing \({missing}\)"):
        LPIPS.load(tmp_path / "trunk.pt", tmp_path / "heads.pt")
    with pytest.raises(UserError, match=r"none\.pth"):
        LPIPS.load(tmp_path / "none.pth", tmp_path / "heads.pt")
