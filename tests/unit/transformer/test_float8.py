"""Linear layers in float8: how much is lost, and what they go together with."""

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.linear import Linear
from cogvideox.transformer import lora
from cogvideox.transformer.float8 import LAYERS, Float8Linear, round_rows, to_float8
from cogvideox.transformer.model import Transformer
from tests import tiny


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(tiny.TRANSFORMERS["5b"]).requires_grad_(False)


def predict(model: Transformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = (torch.randn(shape, generator=generator) for shape in ((1, 4, 2, 4, 6), (1, 12, 32)))
    return model(latents, text, torch.tensor([500]))


def test_rows_keep_three_bits_after_the_first():
    x = torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 1e3, 1e5, 0.0])[:, None]
    rounded, scale = round_rows(x)
    largest = x.abs().amax(dim=1, keepdim=True)
    error = (rounded.float() * scale - x).abs()
    assert (error <= x.abs() / 16 + largest / 448 / 2**7).all()
    torch.testing.assert_close((rounded.float() * scale).abs().amax(dim=1, keepdim=True), largest)


@pytest.mark.parametrize("gelu", [False, True])
def test_a_layer_is_off_by_a_few_per_cent(gelu):
    torch.manual_seed(0)
    layer, x = Linear(64, 48), torch.randn(2, 3, 64)
    with torch.no_grad():
        expected, found = layer(x, gelu=gelu), Float8Linear(layer)(x, gelu=gelu)
    assert found.shape == expected.shape
    assert 1e-3 < (found - expected).norm() / expected.norm() < 0.06


def test_a_model_in_a_quarter_of_the_memory(model):
    before = predict(model)
    to_float8(model)
    found = predict(model)
    assert 0 < (found - before).norm() / before.norm() < 0.1
    for block in model.blocks:
        assert all(block.get_submodule(name).weight.dtype == torch.float8_e4m3fn for name in LAYERS)
        assert block.modulation.weight.dtype == model.final.linear.weight.dtype == torch.float32


@pytest.mark.parametrize("merge", [False, True])
def test_loras_go_into_the_weights_before(model, merge):
    one = lora.fresh(model, torch.Generator().manual_seed(0), rank=2)
    for factors in one.layers.values():
        factors.up.normal_()
    lora.add(model, one, merge=merge)
    with_it = predict(model)
    if merge:
        to_float8(model)
        assert (predict(model) - with_it).norm() < 0.1 * with_it.norm()
    else:
        with pytest.raises(UserError, match="merge it"):
            to_float8(model)


def test_blocks_whose_weights_are_elsewhere(model):
    model.blocks[1].attention.qkv.weight.data = torch.empty(0)
    with pytest.raises(UserError, match="streamed"):
        to_float8(model)
