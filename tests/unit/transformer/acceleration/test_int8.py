"""Int8 linear layers: errors, memory and LoRAs."""

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.linear import Linear
from cogvideox.transformer.acceleration import int8
from cogvideox.transformer.acceleration.float8 import LAYERS
from cogvideox.transformer.acceleration.int8 import Int8Linear, is_int8, round_rows, to_int8
from cogvideox.transformer.lora import inject
from cogvideox.transformer.model import Transformer
from tests import tiny
from tests.unit.transformer.acceleration.test_float8 import predict


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(tiny.TRANSFORMERS["5b"]).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_errors_of_rounded_rows_are_at_most_1_in_254(dtype):
    x = (torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 1e3, 1e5, 0.0])[:, None]).to(dtype)
    rounded, scale = round_rows(x)
    assert rounded.dtype == torch.int8
    error = (rounded.float() * scale - x.float()).abs()
    assert (error <= x.float().abs().amax(dim=1, keepdim=True) / 253.9).all()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_in_int8_equal_products_of_the_rounded_values(gelu, bias, dtype, monkeypatch):
    torch.manual_seed(0)
    layer, x = Linear(64, 48, bias=bias).to(dtype).requires_grad_(False), torch.randn(2, 3, 64).to(dtype)
    rounded, expected = Int8Linear(layer), layer(x, gelu=gelu)
    monkeypatch.setattr(int8, "_BLOCK", 4)
    actual = []
    for has_arithmetic in (True, False):
        monkeypatch.setattr(int8, "HAS_INT8_ARITHMETIC", has_arithmetic)
        actual.append(rounded(x, gelu=gelu))
        assert actual[-1].dtype == dtype and actual[-1].shape == expected.shape
        assert 1e-4 < (actual[-1] - expected).norm() / expected.norm() < 0.03
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(*actual, rtol=tolerance, atol=tolerance)
    assert rounded(x[:0]).shape == (0, 3, 48)


def test_model_has_int8_weights_in_its_blocks_only(model):
    before = predict(model)
    assert not is_int8(model)
    to_int8(model)
    actual = predict(model)
    assert is_int8(model) and 0 < (actual - before).norm() / before.norm() < 0.03
    for block in model.blocks:
        assert all(block.get_submodule(name).weight.dtype == torch.int8 for name in LAYERS)
        assert block.modulation.weight.dtype == model.final.linear.weight.dtype == torch.float32


def test_loras_remain_removable(model):
    lora = inject.create_lora(model, torch.Generator().manual_seed(0), rank=2, targets=["to_q", "to_out.0"])
    for factors in lora.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    to_int8(model)
    before = predict(model)
    with pytest.raises(UserError, match="8-bit weights: leave merge out"):
        inject.add_lora(model, lora, merge=True)
    inject.add_lora(model, lora)
    assert not torch.equal(predict(model), before)
    inject.remove_lora(model)
    assert torch.equal(predict(model), before)


def test_offloaded_blocks_are_rejected(model):
    model.blocks[1].attention.qkv.weight.data = torch.empty(0)
    with pytest.raises(UserError, match="int8_compute needs all blocks on the device"):
        to_int8(model)
