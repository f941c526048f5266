"""ST-LPIPS: layers, loading, and the published value with the weights of the user's install."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cogvideox.errors import UserError
from cogvideox.vae.losses.shift_tolerant import TRUNKS, BlurPool, ShiftTolerantLPIPS, installed_weights
from cogvideox.video.io import read_image
from cogvideox.video.transform import to_model
from tests.goldens import GOLDENS, REASON

WEIGHTS = os.environ.get("COGVIDEOX_ST_LPIPS", "")  # alex_shift_tolerant.pth


def test_blurring_averages_with_binomial_weights_and_keeps_flat_images():
    x = torch.zeros(1, 2, 8, 8)
    x[0, 0, 4, 4] = 16.0
    y = BlurPool()(x)
    assert y.shape == (1, 2, 5, 5) and y[0, 1].abs().sum() == 0
    # Position i of the output is centered at pixel 2 i - 1, after padding by two pixels.
    assert y[0, 0].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert torch.allclose(y[0, 0, 2:4, 2:4], torch.tensor(1.0))
    flat = torch.full((1, 1, 7, 9), 3.0)
    assert torch.allclose(BlurPool()(flat), torch.tensor(3.0))


def random_state(trunk: str) -> dict[str, torch.Tensor]:
    """A state dict as published, with random weights."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in ShiftTolerantLPIPS(trunk).state_dict().items():
        value = torch.randn(tensor.shape, generator=generator) * (2 / max(tensor[0].numel(), 1)) ** 0.5
        if name.startswith("heads."):
            name, value = f"lin{name.split('.')[1]}.model.1.weight", value.abs()
        state[name] = value
    return state | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "net.slice2.4.filt": torch.zeros(1, 1, 3, 3)}


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.inference_mode()
def test_files_of_both_trunks_load_and_distances_obey_the_definition(trunk, tmp_path):
    state = random_state(trunk)
    torch.save(state, tmp_path / "weights.pth")
    distance = ShiftTolerantLPIPS.load(tmp_path / "weights.pth")
    x, y = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(distance(x, x), torch.zeros(2))
    assert torch.allclose(distance(x, y), distance(y, x)) and (distance(x, y) > 0).all()
    # The first stage by hand: convolution, blur (AlexNet only) and ReLU, in the order of the file.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = ((x / 2 + 0.5) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    padding = 2 if trunk == "alex" else 1
    hidden = F.conv2d(normalized, state["net.slice1.0.weight"], state["net.slice1.0.bias"], padding=padding)
    if trunk == "alex":
        weights = torch.tensor([1.0, 2.0, 1.0])
        kernel = (weights[:, None] * weights / 16).repeat(64, 1, 1, 1)
        hidden = F.conv2d(F.pad(hidden, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=64)
    shift, scale = ((value * 2 - 1 if i == 0 else value * 2).view(3, 1, 1) for i, value in enumerate((mean, std)))
    first = distance.net.slice1((x - shift) / scale)
    expected = hidden.relu() if trunk == "alex" else None
    assert first.shape[1] == 64
    if expected is not None:
        torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-4)


def test_a_wrong_file_or_trunk_is_an_error(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="do not match"):
        ShiftTolerantLPIPS.load(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="choose alex or vgg"):
        installed_weights("squeeze")


@pytest.mark.skipif(not GOLDENS.is_dir(), reason=REASON)
@pytest.mark.skipif(not Path(WEIGHTS).is_file(), reason="COGVIDEOX_ST_LPIPS is not set to alex_shift_tolerant.pth")
@torch.inference_mode()
def test_the_published_value():
    distance = ShiftTolerantLPIPS.load(WEIGHTS)
    first, reference = (
        to_model(torch.from_numpy(read_image(GOLDENS / "st-lpips/imgs" / f"{name}.png").copy())[None])[:, 0][None]
        for name in ("ex_p0", "ex_ref")
    )
    assert distance(first, reference).item() == pytest.approx(0.7777554988861084, abs=1e-8)
