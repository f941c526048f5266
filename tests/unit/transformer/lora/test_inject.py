"""Adding, merging, extracting and removing LoRAs, and errors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.linear import Linear
from cogvideox.transformer.init_weights import init_weights
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.config import DEFAULT_TARGETS
from cogvideox.transformer.lora.layers import Factors, LoRALinear
from cogvideox.transformer.model import Transformer
from tests import tiny

LINEAR = (*DEFAULT_TARGETS, "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear", "proj_out", "patch_embed.proj")


@pytest.fixture
def model() -> Transformer:
    model = Transformer(tiny.TRANSFORMERS["5b"])
    init_weights(model, torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def random_lora(model: Transformer, **options) -> inject.LoRA:
    generator = torch.Generator().manual_seed(1)
    lora = inject.create_lora(model, generator, **({"rank": 3, "targets": LINEAR} | options))
    for factors in lora.layers.values():
        factors.up.normal_(generator=generator)
    return lora


def predict(model: Transformer) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    latents, text = torch.randn(1, 4, 2, 4, 6, generator=generator), torch.randn(1, 12, 32, generator=generator)
    dtype = model.text_in.weight.dtype
    return model(latents.to(dtype), text.to(dtype), torch.tensor([500]))


def test_targets_partition_the_rows_of_every_matrix(model):
    """Each row of a matrix belongs to exactly one of the diffusers layers that it combines."""
    covered: dict[str, list[Tensor]] = {}
    for target in inject.lora_targets(model).values():
        rows = torch.arange(target.d_out) if target.rows is None else target.rows
        covered.setdefault(target.module, []).append(rows)
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert covered.keys() == linear.keys()
    for path, rows in covered.items():
        assert torch.equal(torch.cat(rows).sort().values, torch.arange(linear[path].out_features))


def test_new_lora_has_no_effect_and_the_requested_scale(model):
    before = predict(model)
    lora = inject.create_lora(model, torch.Generator().manual_seed(0), rank=4, alpha=8.0)
    assert len(lora.layers) == 4 * model.config.num_layers
    assert {(factors.rank, factors.scale) for factors in lora.layers.values()} == {(4, 2.0)}
    inject.add_lora(model, lora, trainable=True)
    torch.testing.assert_close(predict(model), before)
    assert all(name.split(".")[-1][:-1] in ("down", "up") for name, p in model.named_parameters() if p.requires_grad)


def test_extract_lora_inverts_add_lora(model):
    lora = random_lora(model)
    for options in ({"trainable": True}, {"merge": True}, {}):
        inject.add_lora(model, lora, strength=0.3, **options)
        repeated = inject.extract_lora(model)
        assert repeated.layers.keys() == lora.layers.keys()
        for layer, factors in lora.layers.items():
            actual = repeated.layers[layer]
            assert torch.equal(actual.down, factors.down) and torch.equal(actual.up, factors.up)
            assert actual.alpha == factors.alpha
        inject.remove_lora(model)


def test_state_dict_has_no_lora(model):
    """The state dict has the weights of the base model, or merged weights if the LoRA is merged."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inject.add_lora(model, random_lora(model))
    state = model.state_dict()
    assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
    unmerged = predict(model)
    inject.remove_lora(model)
    inject.add_lora(model, random_lora(model), merge=True)
    loaded = Transformer(model.config).eval()
    loaded.load_state_dict(model.state_dict())
    torch.testing.assert_close(predict(loaded), unmerged, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_once_and_restored_exactly(model):
    model.bfloat16()
    linear = model.blocks[0].attention.qkv
    before = linear.weight.clone()
    first, second = random_lora(model), random_lora(model, rank=2)
    inject.add_lora(model, first, "first", strength=1 / 3, merge=True)
    inject.add_lora(model, second, "second", strength=-0.7, merge=True)
    changed = model.blocks[0].attention.qkv
    assert isinstance(changed, LoRALinear)
    exact = before.double()
    for lora, strength in ((first, 1 / 3), (second, -0.7)):
        parts = [lora.layers[f"transformer_blocks.0.attn1.to_{part}"] for part in "qkv"]
        exact += strength * torch.cat([part.up.double() @ part.down.double() for part in parts])
    assert (changed.weight - exact).abs().max() <= 2**-8 * exact.abs().max()
    assert torch.equal(changed.weight, exact.bfloat16()) or (changed.weight - exact.bfloat16()).count_nonzero() < 10

    inject.set_strength(model, "first", 2.0)
    inject.remove_lora(model, "first")
    inject.remove_lora(model, "second")
    restored = model.blocks[0].attention.qkv
    assert type(restored) is Linear and restored.weight is linear.weight
    assert torch.equal(restored.weight, before)


def test_training_mode_is_preserved(model):
    model.train()
    inject.add_lora(model, random_lora(model))
    assert model.blocks[0].attention.qkv.training
    inject.remove_lora(model)
    assert model.blocks[0].attention.qkv.training


def test_invalid_loras_and_names_are_rejected(model):
    lora = random_lora(model)
    key, missing_key = "transformer_blocks.1.attn1.to_q", "transformer_blocks.9.attn1.to_q"
    wide = replace(lora.layers[key], down=torch.zeros(3, 33))
    other = replace(lora, path=Path("x.safetensors"), layers={key: wide, missing_key: lora.layers[key]})
    with pytest.raises(UserError) as error:
        inject.add_lora(model, other)
    for message in (
        "x.safetensors does not fit this transformer of 2 blocks and width 32",
        "1 of its 2 layers have a different shape (transformer_blocks.1.attn1.to_q is 33 to 32, not 32 to 32)",
        "1 of its 2 layers are not in the model (transformer_blocks.9.attn1.to_q)",
    ):
        assert message in str(error.value)
    assert not inject.lora_strengths(model) and type(model.blocks[1].attention.qkv) is Linear
    norm = inject.LoRA({"norm_final": Factors(torch.zeros(1, 32), torch.zeros(32, 1), 1.0)})
    with pytest.raises(UserError, match=r"not in the model \(norm_final\)"):
        inject.add_lora(model, norm)

    inject.add_lora(model, lora, "style")
    with pytest.raises(UserError, match="'style' is already loaded"):
        inject.add_lora(model, lora, "style")
    for call in (inject.remove_lora, inject.extract_lora, lambda model, name: inject.set_strength(model, name, 1.0)):
        with pytest.raises(UserError, match="no LoRA called 'stile'; it has style"):
            call(model, "stile")
    for strength in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="strength="):
            inject.set_strength(model, "style", strength)
    with pytest.raises(UserError, match=r"'to_x'; the layers are attn1.to_k, .*proj_out"):
        inject.create_lora(model, torch.Generator(), rank=1, targets=["to_x"])
    with pytest.raises(UserError, match="rank=0"):
        inject.create_lora(model, torch.Generator(), rank=0)
    with pytest.raises(ValueError, match="cannot be merged"):
        inject.add_lora(model, lora, "other", merge=True, trainable=True)
