"""LoRAs equal peft's on diffusers' `CogVideoXTransformer3DModel`, in both directions."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvideox.training.diffusion.quantized_base import quantize_base
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.config import BaseWeights
from cogvideox.transformer.lora.io import read_lora, write_lora
from cogvideox.transformer.model import Transformer
from tests.parity.test_transformer import (
    TOLERANCE,
    model_pair,
    random_inputs,
    reference_prediction,
    relative_error,
    small_config,
)

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ALL = [
    *ATTENTION,
    *("ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear", "patch_embed.proj", "text_proj"),
    *("time_embedding.linear_1", "time_embedding.linear_2", "norm_out.linear", "proj_out"),
]
OFS = ["ofs_embedding.linear_1", "ofs_embedding.linear_2"]
SIZE = (2, 8, 12)

Reference = CogVideoXTransformer3DModel


def add_random_adapter(reference: Reference, targets: list[str], name: str = "default", **config) -> None:
    """Add a LoRA with random factors that are large enough to have an effect."""
    config = {"r": 4, "lora_alpha": 6, **config}
    reference.add_adapter(LoraConfig(target_modules=targets, init_lora_weights=False, **config), adapter_name=name)


def save(reference: Reference, folder: Path, name: str = "default") -> Path:
    reference.save_lora_adapter(folder, adapter_name=name)
    return folder


def copy_weights(model: Transformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("merge", [False, True], ids=["unmerged", "merged"])
@pytest.mark.parametrize(
    ("preset", "targets", "config"),
    [
        ("2b", ALL, {}),
        ("5b", ATTENTION, {}),
        ("5b", ["to_q"], {}),
        ("5b", ["to_v", "norm2.linear"], {"use_rslora": True}),
        ("5b", ["to_k", "proj_out"], {"rank_pattern": {"1.attn1.to_k": 2}, "alpha_pattern": {"proj_out": 1}}),
        ("1.5-5b-i2v", ALL + OFS, {}),
    ],
    ids=lambda value: f"{len(value)}" if not isinstance(value, str) else value,
)
@torch.no_grad()
def test_predictions_with_peft_loras_are_equal(
    preset: str, targets: list[str], config: dict, merge: bool, tmp_path: Path
) -> None:
    model, reference = model_pair(small_config(preset, base=(9, 8, 12)))
    inputs = random_inputs(model.config, SIZE)
    weights, unadapted = copy_weights(model), model(**inputs)
    add_random_adapter(reference, targets, **config)
    expected = reference_prediction(reference, inputs)
    assert relative_error(unadapted, expected) > 0.01

    inject.add_lora(model, read_lora(save(reference, tmp_path)), merge=merge)
    assert relative_error(model(**inputs), expected) <= TOLERANCE
    assert equal_tensors(copy_weights(model), weights) != merge

    # Precomputed modulation includes the LoRA.
    tables = model.precompute_modulation(inputs["timestep"], 2.0 if "ofs" in inputs else None)
    prediction = model(inputs["latents"], inputs["text"], None, modulation=tables[0])
    assert relative_error(prediction[0], expected[0]) <= TOLERANCE

    inject.remove_lora(model)
    assert equal_tensors(copy_weights(model), weights)
    assert torch.equal(model(**inputs), unadapted)


@pytest.mark.parametrize("merge", [(False, False), (True, True), (True, False)], ids=str)
@torch.no_grad()
def test_several_loras_with_strengths_are_equal(merge: tuple[bool, bool], tmp_path: Path) -> None:
    model, reference = model_pair(small_config("5b", base=(9, 8, 12)))
    inputs, weights = random_inputs(model.config, SIZE), copy_weights(model)
    add_random_adapter(reference, ATTENTION, "style")
    add_random_adapter(reference, ["to_q", "ff.net.2", "norm1.linear"], "move", r=3)
    for name, merged in zip(("style", "move"), merge):
        inject.add_lora(model, read_lora(save(reference, tmp_path / name, name)), name, strength=0.3, merge=merged)
    inject.set_strength(model, "move", -0.8)
    assert inject.lora_strengths(model) == {"style": 0.3, "move": -0.8}

    reference.set_adapters(["style", "move"], [0.3, -0.8])
    assert relative_error(model(**inputs), reference_prediction(reference, inputs)) <= TOLERANCE

    inject.remove_lora(model, "style")
    reference.set_adapters(["move"], [-0.8])
    assert relative_error(model(**inputs), reference_prediction(reference, inputs)) <= TOLERANCE
    inject.remove_lora(model, "move")
    assert equal_tensors(copy_weights(model), weights)


@torch.no_grad()
def test_files_of_diffusers_and_peft_have_equal_factors(tmp_path: Path) -> None:
    """Files of the official trainer, with and without metadata, and a folder of peft."""
    _, reference = model_pair(small_config("2b", base=(9, 8, 12)))
    layers = ["to_q", "to_out.0", "patch_embed.proj"]
    wrapped = get_peft_model(reference, LoraConfig(r=4, lora_alpha=2, target_modules=layers, init_lora_weights=False))
    state = get_peft_model_state_dict(wrapped)
    factors_by_name = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}

    wrapped.save_pretrained(tmp_path / "peft")
    CogVideoXPipeline.save_lora_weights(tmp_path / "old", transformer_lora_layers=factors_by_name)
    config = {"r": 4, "lora_alpha": 2}
    CogVideoXPipeline.save_lora_weights(
        tmp_path / "new", transformer_lora_layers=factors_by_name, transformer_lora_adapter_metadata=config
    )
    loras = {name: read_lora(tmp_path / name) for name in ("peft", "old", "new")}
    assert {name: lora.alpha_known for name, lora in loras.items()} == {"peft": True, "old": False, "new": True}
    for lora in loras.values():
        assert len(lora.layers) == 2 * 3 + 1
        for layer, factors in lora.layers.items():
            assert torch.equal(factors.down, factors_by_name[f"{layer}.lora_A.weight"])
            assert torch.equal(factors.up, factors_by_name[f"{layer}.lora_B.weight"].reshape(factors.up.shape))
            assert factors.alpha == (4 if lora is loras["old"] else 2)


def random_lora(model: Transformer, rank: int, targets: list[str], **options) -> inject.LoRA:
    """Create a LoRA without zero factors."""
    generator = torch.Generator().manual_seed(rank)
    lora = inject.create_lora(model, generator, rank=rank, targets=targets, **options)
    for factors in lora.layers.values():
        factors.up.normal_(generator=generator)
    return lora


@pytest.mark.parametrize("base_weights", ["exact", "int8", "nf4"])
@pytest.mark.parametrize("keep_alpha", [False, True])
@torch.no_grad()
def test_written_lora_files_load_in_diffusers(keep_alpha: bool, base_weights: BaseWeights, tmp_path: Path) -> None:
    """Layers with different ranks and alphas; files with alpha = rank also load without metadata. The weights of the
    model on which the LoRA is trained may be quantized."""
    model, reference = model_pair(small_config("2b", base=(9, 8, 12)))
    inputs = random_inputs(model.config, SIZE)
    wide, narrow = random_lora(model, 4, ALL, alpha=2.0), random_lora(model, 2, ["to_q", "proj_out"], alpha=3.0)
    inject.add_lora(model, inject.LoRA({**wide.layers, **narrow.layers}))
    expected = model(**inputs)
    if base_weights != "exact":
        quantize_base(model, base_weights)
    file = tmp_path / "lora.safetensors"
    write_lora(inject.extract_lora(model), file, keep_alpha=keep_alpha)

    def check() -> None:
        assert relative_error(reference_prediction(reference, inputs), expected) <= TOLERANCE
        reference.unload_lora()

    CogVideoXPipeline(None, None, None, reference, CogVideoXDDIMScheduler()).load_lora_weights(str(file))
    check()
    reference.load_lora_adapter(str(file), use_safetensors=True)
    check()
    if not keep_alpha:
        reference.load_lora_adapter(str(file))  # ignores metadata
        check()


def test_gradients_of_the_factors_equal_those_of_peft(tmp_path: Path) -> None:
    model, reference = model_pair(small_config("5b", base=(9, 8, 12)))
    inputs = random_inputs(model.config, SIZE)
    add_random_adapter(reference, ["to_q", "to_v", "to_out.0", "norm1.linear"])
    model.requires_grad_(False)
    inject.add_lora(model, read_lora(save(reference, tmp_path)), strength=0.5, trainable=True)
    reference.set_adapters(["default"], [0.5])
    expected = reference_prediction(reference, inputs)
    coefficients = torch.randn_like(expected)
    (expected * coefficients).sum().backward()
    (model(**inputs) * coefficients).sum().backward()

    assert {name.rpartition(".")[2][:-1] for name, p in model.named_parameters() if p.requires_grad} == {"down", "up"}
    num_layers = 0
    modules = dict(reference.named_modules())
    for _, layer in inject._lora_linears(model):
        for lora in layer.lora_modules():
            for name, (down, up) in zip(lora.layers, lora.factor_pairs()):
                expected_layer = modules[name]
                assert relative_error(down.grad, expected_layer.lora_A["default"].weight.grad) <= 10 * TOLERANCE
                assert relative_error(up.grad, expected_layer.lora_B["default"].weight.grad) <= 10 * TOLERANCE
                num_layers += 1
    assert num_layers == 4 * model.config.num_layers
