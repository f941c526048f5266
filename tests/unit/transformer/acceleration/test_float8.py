"""Float8 linear layers: errors, memory and LoRAs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cogvideox.errors import UserError
from cogvideox.linear import Linear
from cogvideox.transformer.acceleration import float8
from cogvideox.transformer.acceleration.float8 import LAYERS, Float8Linear, round_rows, to_float8
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.config import DEFAULT_TARGETS
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


def test_rounded_rows_have_3_mantissa_bits():
    x = torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 1e3, 1e5, 0.0])[:, None]
    rounded, scale = round_rows(x)
    row_max = x.abs().amax(dim=1, keepdim=True)
    error = (rounded.float() * scale - x).abs()
    assert (error <= x.abs() / 16 + row_max / 448 / 2**7).all()
    torch.testing.assert_close((rounded.float() * scale).abs().amax(dim=1, keepdim=True), row_max)


def test_wide_activations_are_rounded_in_chunks(monkeypatch):
    x = torch.randn(50, 64).bfloat16()
    expected = round_rows(x)
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            created = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in tree_leaves(created) if x.dtype == torch.float32)
            return created

    monkeypatch.setattr(float8, "_CHUNK", 7 * 64)
    with Sizes():
        actual = round_rows(x)
    assert max(sizes) == 7 * 64
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(actual, expected))


@pytest.mark.parametrize("gelu", [False, True])
def test_error_of_a_layer_is_a_few_percent(gelu):
    torch.manual_seed(0)
    layer, x = Linear(64, 48), torch.randn(2, 3, 64)
    with torch.no_grad():
        expected, actual = layer(x, gelu=gelu), Float8Linear(layer)(x, gelu=gelu)
    assert actual.shape == expected.shape
    assert 1e-3 < (actual - expected).norm() / expected.norm() < 0.06


def test_model_has_float8_weights_in_its_blocks_only(model):
    before = predict(model)
    to_float8(model)
    actual = predict(model)
    assert 0 < (actual - before).norm() / before.norm() < 0.1
    for block in model.blocks:
        assert all(block.get_submodule(name).weight.dtype == torch.float8_e4m3fn for name in LAYERS)
        assert block.modulation.weight.dtype == model.final.linear.weight.dtype == torch.float32


@pytest.fixture
def adapter(model) -> inject.LoRA:
    lora = inject.create_lora(
        model, torch.Generator().manual_seed(0), rank=2, targets=[*DEFAULT_TARGETS, "ff.net.0.proj"]
    )
    for factors in lora.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    return lora


@pytest.mark.parametrize("merge", [False, True])
def test_loras_added_before_float8(model, adapter, merge):
    """Unmerged LoRAs can be removed afterwards, and merged ones cannot."""
    inject.add_lora(model, adapter, merge=merge)
    expected = predict(model)
    to_float8(model)
    assert (predict(model) - expected).norm() < 0.1 * expected.norm()
    if merge:
        assert not inject.lora_strengths(model)
    else:
        inject.remove_lora(model)
        assert (predict(model) - expected).norm() > 0.1 * expected.norm()


def test_loras_added_after_float8(model, adapter):
    to_float8(model)
    before = predict(model)
    with pytest.raises(UserError, match="leave merge out"):
        inject.add_lora(model, adapter, merge=True)
    inject.add_lora(model, adapter, strength=0.5)
    inject.add_lora(model, adapter, "other", strength=0.5)
    with_both = predict(model)
    inject.remove_lora(model)
    assert torch.equal(predict(model), before)
    inject.add_lora(model, adapter)
    torch.testing.assert_close(predict(model), with_both)
    assert inject.extract_lora(model).layers.keys() == adapter.layers.keys()


def test_offloaded_blocks_are_rejected(model):
    model.blocks[1].attention.qkv.weight.data = torch.empty(0)
    with pytest.raises(UserError, match="offloaded"):
        to_float8(model)
