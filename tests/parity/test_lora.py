"""LoRAs equal peft's on diffusers' `CogVideoXTransformer3DModel`, in both directions."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import read_lora, write_lora
from cogvideox.transformer.model import Transformer
from tests.parity.test_transformer import TOLERANCE, inputs, pair, reference, relative_error, small

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

Theirs = CogVideoXTransformer3DModel


def adapt(theirs: Theirs, targets: list[str], name: str = "default", **config) -> None:
    """Add a LoRA with random factors that are large enough to have an effect."""
    config = {"r": 4, "lora_alpha": 6, **config}
    theirs.add_adapter(LoraConfig(target_modules=targets, init_lora_weights=False, **config), adapter_name=name)


def save(theirs: Theirs, folder: Path, name: str = "default") -> Path:
    theirs.save_lora_adapter(folder, adapter_name=name)
    return folder


def weights(model: Transformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
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
    ours, theirs = pair(small(preset, base=(9, 8, 12)))
    given = inputs(ours.config, SIZE)
    before, plain = weights(ours), ours(**given)
    adapt(theirs, targets, **config)
    expected = reference(theirs, given)
    assert relative_error(plain, expected) > 0.01

    inject.add_lora(ours, read_lora(save(theirs, tmp_path)), merge=merge)
    assert relative_error(ours(**given), expected) <= TOLERANCE
    assert same(weights(ours), before) != merge

    # Precomputed modulation includes the LoRA.
    tables = ours.precompute_modulation(given["timestep"], 2.0 if "ofs" in given else None)
    one = ours(given["latents"], given["text"], None, modulation=tables[0])
    assert relative_error(one[0], expected[0]) <= TOLERANCE

    inject.remove_lora(ours)
    assert same(weights(ours), before)
    assert torch.equal(ours(**given), plain)


@pytest.mark.parametrize("merge", [(False, False), (True, True), (True, False)], ids=str)
@torch.no_grad()
def test_several_loras_with_strengths_are_equal(merge: tuple[bool, bool], tmp_path: Path) -> None:
    ours, theirs = pair(small("5b", base=(9, 8, 12)))
    given, before = inputs(ours.config, SIZE), weights(ours)
    adapt(theirs, ATTENTION, "style")
    adapt(theirs, ["to_q", "ff.net.2", "norm1.linear"], "move", r=3)
    for name, merged in zip(("style", "move"), merge):
        inject.add_lora(ours, read_lora(save(theirs, tmp_path / name, name)), name, strength=0.3, merge=merged)
    inject.set_strength(ours, "move", -0.8)
    assert inject.lora_strengths(ours) == {"style": 0.3, "move": -0.8}

    theirs.set_adapters(["style", "move"], [0.3, -0.8])
    assert relative_error(ours(**given), reference(theirs, given)) <= TOLERANCE

    inject.remove_lora(ours, "style")
    theirs.set_adapters(["move"], [-0.8])
    assert relative_error(ours(**given), reference(theirs, given)) <= TOLERANCE
    inject.remove_lora(ours, "move")
    assert same(weights(ours), before)


@torch.no_grad()
def test_files_of_diffusers_and_peft_have_equal_factors(tmp_path: Path) -> None:
    """Files written as in the official trainer, with and without metadata, and peft's folder."""
    _, theirs = pair(small("2b", base=(9, 8, 12)))
    layers = ["to_q", "to_out.0", "patch_embed.proj"]
    wrapped = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=2, target_modules=layers, init_lora_weights=False))
    state = get_peft_model_state_dict(wrapped)
    bare = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}

    wrapped.save_pretrained(tmp_path / "peft")
    CogVideoXPipeline.save_lora_weights(tmp_path / "old", transformer_lora_layers=bare)
    config = {"r": 4, "lora_alpha": 2}
    CogVideoXPipeline.save_lora_weights(
        tmp_path / "new", transformer_lora_layers=bare, transformer_lora_adapter_metadata=config
    )
    read = {name: read_lora(tmp_path / name) for name in ("peft", "old", "new")}
    assert {name: one.alpha_known for name, one in read.items()} == {"peft": True, "old": False, "new": True}
    for one in read.values():
        assert len(one.layers) == 2 * 3 + 1
        for layer, factors in one.layers.items():
            assert torch.equal(factors.down, bare[f"{layer}.lora_A.weight"])
            assert torch.equal(factors.up, bare[f"{layer}.lora_B.weight"].reshape(factors.up.shape))
            assert factors.alpha == (4 if one is read["old"] else 2)


def random_lora(model: Transformer, rank: int, targets: list[str], **more) -> inject.LoRA:
    """A LoRA without zero factors."""
    generator = torch.Generator().manual_seed(rank)
    one = inject.create_lora(model, generator, rank=rank, targets=targets, **more)
    for factors in one.layers.values():
        factors.up.normal_(generator=generator)
    return one


@pytest.mark.parametrize("keep_alpha", [False, True])
@torch.no_grad()
def test_written_lora_files_load_in_diffusers(keep_alpha: bool, tmp_path: Path) -> None:
    """With several ranks and alphas; files with alpha = rank also load without metadata."""
    ours, theirs = pair(small("2b", base=(9, 8, 12)))
    given = inputs(ours.config, SIZE)
    wide, narrow = random_lora(ours, 4, ALL, alpha=2.0), random_lora(ours, 2, ["to_q", "proj_out"], alpha=3.0)
    inject.add_lora(ours, inject.LoRA({**wide.layers, **narrow.layers}))
    expected = ours(**given)
    file = tmp_path / "ours.safetensors"
    write_lora(inject.extract_lora(ours), file, keep_alpha=keep_alpha)

    def check() -> None:
        assert relative_error(reference(theirs, given), expected) <= TOLERANCE
        theirs.unload_lora()

    CogVideoXPipeline(None, None, None, theirs, CogVideoXDDIMScheduler()).load_lora_weights(str(file))
    check()
    theirs.load_lora_adapter(str(file), use_safetensors=True)
    check()
    if not keep_alpha:
        theirs.load_lora_adapter(str(file))  # ignores metadata
        check()


def test_gradients_of_the_factors_equal_those_of_peft(tmp_path: Path) -> None:
    ours, theirs = pair(small("5b", base=(9, 8, 12)))
    given = inputs(ours.config, SIZE)
    adapt(theirs, ["to_q", "to_v", "to_out.0", "norm1.linear"])
    ours.requires_grad_(False)
    inject.add_lora(ours, read_lora(save(theirs, tmp_path)), strength=0.5, trainable=True)
    theirs.set_adapters(["default"], [0.5])
    expected = reference(theirs, given)
    coefficients = torch.randn_like(expected)
    (expected * coefficients).sum().backward()
    (ours(**given) * coefficients).sum().backward()

    assert {name.rpartition(".")[2][:-1] for name, p in ours.named_parameters() if p.requires_grad} == {"down", "up"}
    seen = 0
    modules = dict(theirs.named_modules())
    for _, layer in inject._lora_linears(ours):
        for share in layer.lora_modules():
            for name, (down, up) in zip(share.layers, share.factor_pairs()):
                their = modules[name]
                assert relative_error(down.grad, their.lora_A["default"].weight.grad) <= 10 * TOLERANCE
                assert relative_error(up.grad, their.lora_B["default"].weight.grad) <= 10 * TOLERANCE
                seen += 1
    assert seen == 4 * ours.config.num_layers
