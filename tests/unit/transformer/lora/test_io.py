"""LoRA files: the names of all programs, alpha, writing and errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.transformer.lora.inject import LoRA
from cogvideox.transformer.lora.io import read_lora, write_lora
from cogvideox.transformer.lora.layers import Factors

WIDTH, RANK = 32, 2
LAYERS = [f"transformer_blocks.{n}.attn1.{part}" for n in (0, 11) for part in ("to_q", "to_k", "to_v", "to_out.0")]

State = dict[str, Tensor]


@pytest.fixture
def factors() -> dict[str, tuple[Tensor, Tensor]]:
    """Return (down, up) of each layer, the content of all test files."""
    return {layer: (torch.randn(RANK, WIDTH), torch.randn(WIDTH, RANK)) for layer in LAYERS}


def name_tensors(name_of: Callable[[str, str], str], factors: dict[str, tuple[Tensor, Tensor]]) -> State:
    state = {}
    for layer, pair in factors.items():
        for role, tensor in zip("AB", pair):
            state[name_of(layer, role)] = tensor.contiguous()
    return state


def old_role(role: str) -> str:
    return {"A": "down", "B": "up"}[role]


NAMES: dict[str, Callable[[str, str], str]] = {
    "diffusers": lambda layer, role: f"transformer.{layer}.lora_{role}.weight",
    "diffusers, model only": lambda layer, role: f"{layer}.lora_{role}.weight",
    "diffusers, older": lambda layer, role: f"transformer.{layer}.lora.{old_role(role)}.weight",
    "diffusers, before peft": lambda layer, role: (
        f"transformer.{'.attn1.processor.'.join(layer.removesuffix('.0').split('.attn1.'))}_lora.{old_role(role)}.weight"
    ),
    "peft": lambda layer, role: f"base_model.model.{layer}.lora_{role}.weight",
    "peft with adapter name": lambda layer, role: f"base_model.model.{layer}.lora_{role}.default.weight",
    "ComfyUI": lambda layer, role: f"diffusion_model.{layer}.lora_{role}.weight",
    "compiled and wrapped": lambda layer, role: f"module._orig_mod.{layer}.lora_{role}.weight",
    "kohya": lambda layer, role: f"lora_unet__{layer.replace('.', '_')}.lora_{old_role(role)}.weight",
    "kohya, other prefix": lambda layer, role: (
        f"lora_transformer_{layer.replace('.', '_')}.lora_{old_role(role)}.weight"
    ),
}


def sat_name(layer: str, role: str) -> str:
    n, part = layer.split(".")[1], layer.split(".attn1.")[1]
    matrix = "dense.matrix_{}.0" if part == "to_out.0" else f"query_key_value.matrix_{{}}.{'qkv'.index(part[-1])}"
    return f"model.diffusion_model.transformer.layers.{n}.attention.{matrix.format(role)}"


def check(lora: LoRA, factors: dict[str, tuple[Tensor, Tensor]], alpha: float) -> None:
    assert lora.layers.keys() == factors.keys()
    for layer, (down, up) in factors.items():
        actual = lora.layers[layer]
        assert torch.equal(actual.down, down) and torch.equal(actual.up, up)
        assert (actual.rank, actual.alpha) == (RANK, alpha)


@pytest.mark.parametrize("program", NAMES)
def test_files_of_every_program_are_read(program: str, factors, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(name_tensors(NAMES[program], factors), file)
    lora = read_lora(file)
    check(lora, factors, alpha=RANK)
    assert not lora.alpha_known and lora.path == file


@pytest.mark.parametrize("program", ["kohya", "diffusers"])
def test_alpha_tensors_are_read(program: str, factors, tmp_path: Path) -> None:
    state = name_tensors(NAMES[program], factors)
    state |= {NAMES[program](layer, "A").rpartition(".lora_")[0] + ".alpha": torch.tensor(5.0) for layer in LAYERS}
    save_file(state, tmp_path / "x.safetensors")
    lora = read_lora(tmp_path)
    check(lora, factors, alpha=5)
    assert lora.alpha_known


@pytest.mark.parametrize(
    "metadata",
    [
        {
            "lora_config": {"r": RANK, "lora_alpha": 5, "init_lora_weights": True, "target_modules": "to_q"}
        },  # finetrainers
        {"lora_adapter_metadata": {"transformer.r": RANK, "transformer.lora_alpha": 5}},  # diffusers, from a pipeline
        {"lora_adapter_metadata": {"r": RANK, "lora_alpha": 9, "alpha_pattern": {r"\d+\.attn1.*": 5}}},  # from a model
    ],
    ids=["finetrainers", "pipeline", "model"],
)
def test_alpha_in_metadata_is_read(metadata: dict, factors, tmp_path: Path) -> None:
    header = {key: json.dumps(value) for key, value in metadata.items()}
    save_file(name_tensors(NAMES["diffusers"], factors), tmp_path / "x.safetensors", metadata=header)
    check(read_lora(tmp_path), factors, alpha=5)


@pytest.mark.parametrize(
    "config", [{"lora_alpha": None}, {"alpha_pattern": {"(": 1}}, {"alpha_pattern": 3}, {"lora_alpha": "much"}], ids=str
)
def test_invalid_metadata_is_rejected(config: dict, factors, tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": json.dumps(config)}
    save_file(name_tensors(NAMES["diffusers"], factors), tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(UserError, match="has no valid alpha for transformer_blocks"):
        read_lora(tmp_path)
    save_file(name_tensors(NAMES["diffusers"], factors), tmp_path / "x.safetensors", metadata={"lora_config": "[]"})
    with pytest.raises(UserError, match="not a JSON object"):
        read_lora(tmp_path)


def test_peft_folder_is_read(factors, tmp_path: Path) -> None:
    save_file(name_tensors(NAMES["peft"], factors), tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 4, "use_rslora": True, "base_model_name_or_path": "THUDM/CogVideoX-5b"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    lora = read_lora(tmp_path)
    check(lora, factors, alpha=4 * RANK**0.5)
    assert lora.base_model == "THUDM/CogVideoX-5b" and lora.alpha_known
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match="is a DORA adapter"):
        read_lora(tmp_path)


def test_sat_checkpoint_is_read(factors, tmp_path: Path) -> None:
    """It also contains the frozen base model, and SAT's alpha is 1."""
    base = {
        "model.diffusion_model.transformer.layers.0.attention.query_key_value.original.weight": torch.ones(3, 3),
        "first_stage_model.encoder.conv_in.weight": torch.ones(2),
    }
    file = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": base | name_tensors(sat_name, factors), "iteration": 1000}, file)
    lora = read_lora(file)
    check(lora, factors, alpha=1)
    assert lora.alpha_known
    for unknown in ("layers.0.attention.dense.matrix_A.1", "layers.0.attention.gate.matrix_B.0", "x.lora_A.weight"):
        name = f"model.diffusion_model.transformer.{unknown}"
        torch.save({"module": base | name_tensors(sat_name, factors) | {name: torch.ones(2, 2)}}, file)
        with pytest.raises(UserError, match=f"1 of 19 tensors .* do not belong to a LoRA for CogVideoX: {name}"):
            read_lora(file)


def test_pickles_do_not_execute_code(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "created",))

    torch.save({"x": Malicious()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="it would run code"):
        read_lora(tmp_path / "x.pt")
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a LoRA for Wan"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux or HunyuanVideo"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "UNet"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "language model"),
        ("transformer_blocks.0.attn1.to_q.weight", "a full model, not a LoRA"),
        ("encoder.down_blocks.0.resnets.0.conv1.conv.weight", "a VAE"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a text encoder"),
        ("anything.else", "an unknown file type, with tensors such as anything.else"),
    ],
)
def test_other_files_are_rejected_with_a_description(name: str, contents: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=f"has no LoRA for CogVideoX: it seems to be .*{contents}"):
        read_lora(tmp_path)


def test_invalid_tensors_are_named(factors, tmp_path: Path) -> None:
    state = name_tensors(NAMES["diffusers"], factors)
    first = next(iter(state))
    for extra, message in {
        "transformer.transformer_blocks.0.attn1.to_q.lora_magnitude_vector": "1 of 17 tensors .* a DoRA.*magnitude",
        "text_encoder.encoder.block.0.layer.0.lora_A.weight": "a LoRA of a text encoder: text_encoder.enc",
        "transformer.transformer_blocks.0.attn1.to_q.lora_B.bias": "do not belong to .*: .*to_q.lora_B.bias",
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.second.weight": "more than one LoRA",
        "transformer.transformer_blocks.3.attn1.to_q.lora_A.weight": "are incomplete: .*_blocks.3.* has only down",
        "transformer.transformer_blocks.3.attn1.to_q.alpha": "no factors of transformer_blocks.3.attn1.to_q",
    }.items():
        save_file(state | {extra: torch.ones(1)}, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=message):
            read_lora(tmp_path)
    for message, broken in {
        "do not match": torch.ones(3, WIDTH),
        "damaged": torch.full((RANK, WIDTH), torch.nan),
        "torch.int64": torch.ones(RANK, WIDTH, dtype=torch.int64),
    }.items():
        save_file(state | {first: broken}, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=message):
            read_lora(tmp_path)


def test_missing_and_damaged_files_are_rejected(tmp_path: Path) -> None:
    for path, message in {
        tmp_path / "x.safetensors": "file not found",
        tmp_path / "x.pt": "file not found",
        tmp_path: "has no .safetensors file: pass the path",
    }.items():
        with pytest.raises(UserError, match=message):
            read_lora(path)
    (tmp_path / "x.bin").write_bytes(b"no pickle")
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_lora(tmp_path / "x.bin")
    torch.save([1], tmp_path / "x.bin")
    with pytest.raises(UserError, match="contains a list"):
        read_lora(tmp_path / "x.bin")


def test_written_files_are_loaded_unchanged(factors, tmp_path: Path) -> None:
    """Rank, alpha and base model are in the metadata; with `keep_alpha`, factors are identical."""
    layers = {layer: Factors(*pair, alpha=8.0) for layer, pair in factors.items()}
    layers[LAYERS[0]] = Factors(torch.randn(3, WIDTH), torch.randn(WIDTH, 3), alpha=1.0)
    lora = LoRA(layers, base_model="toybox", trigger="in the style of x")
    for keep_alpha in (True, False):
        file = tmp_path / f"{keep_alpha}.safetensors"
        write_lora(lora, file, keep_alpha=keep_alpha)
        read = read_lora(file)
        assert (read.base_model, read.trigger, read.alpha_known) == ("toybox", "in the style of x", True)
        for layer, factors in layers.items():
            stored = read.layers[layer]
            assert torch.equal(stored.down, factors.down)
            assert stored.alpha == (factors.alpha if keep_alpha else factors.rank)
            assert torch.equal(stored.up, factors.up if keep_alpha else factors.up * factors.scale)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        assert metadata["rank"] == str(RANK)
        assert metadata["alpha"] == ("8" if keep_alpha else str(RANK)) and metadata["trained_alpha"] == "8"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_factors_become_bfloat16(dtype: torch.dtype, factors, tmp_path: Path) -> None:
    """8-bit floats have no arithmetic; bfloat16 represents them exactly, and NaN is still detected."""
    state = {name: tensor.to(dtype) for name, tensor in name_tensors(NAMES["diffusers"], factors).items()}
    save_file(state, tmp_path / "x.safetensors")
    read = read_lora(tmp_path / "x.safetensors")
    for layer, (down, up) in factors.items():
        assert torch.equal(read.layers[layer].down, down.to(dtype).bfloat16())
        assert torch.equal(read.layers[layer].up, up.to(dtype).bfloat16())
    write_lora(read, tmp_path / "y.safetensors")
    state[NAMES["diffusers"](LAYERS[0], "B")][0, 0] = torch.nan
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=rf"the factors of {LAYERS[0]} in .* NaN"):
        read_lora(tmp_path / "x.safetensors")


def test_values_that_overflow_are_rejected(factors, tmp_path: Path) -> None:
    """Values are checked after multiplication by alpha / rank, before rounding to the dtype of the file."""
    down, up = factors[LAYERS[0]]
    large = LoRA({LAYERS[0]: Factors(down.half(), (up * 2e4 / up.abs().max()).half(), alpha=32.0)})
    for dtype in (None, torch.float16):
        with pytest.raises(UserError, match=f"the LoRA has values too large for float16: {LAYERS[0]}"):
            write_lora(large, tmp_path / "x.safetensors", dtype=dtype)
    assert not (tmp_path / "x.safetensors").exists()
    write_lora(large, tmp_path / "x.safetensors", dtype=torch.bfloat16)
    write_lora(LoRA({LAYERS[0]: Factors(down, up, alpha=1 / 3)}), tmp_path / "y.safetensors", dtype=torch.bfloat16)
    stored = read_lora(tmp_path / "y.safetensors").layers[LAYERS[0]]
    assert torch.equal(stored.up, (up * (1 / 3 / RANK)).bfloat16()) and torch.equal(stored.down, down.bfloat16())
