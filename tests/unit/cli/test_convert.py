"""`cogvideox convert` and `cogvideox inspect`."""

import os

import pytest
import torch

from cogvideox.pretrained import model_spec
from cogvideox.state_dict.safetensors_io import load_state, save_state
from cogvideox.transformer.lora.io import read_lora


class Evil:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_converting_to_a_file_and_back_to_a_model(run, model, workdir):
    result = run("convert", model, "one.safetensors", "--dtype", "bfloat16")
    assert result.status == 0 and "transformer: " in result.out and "one.safetensors: written in" in result.out
    result = run("convert", "one.safetensors", "part", "--dtype", "float32")
    assert result.status == 0 and "is not a complete model (missing vae, text_encoder, tokenizer" in result.err
    result = run("convert", "one.safetensors", "part", "--base", model)
    assert (result.status, result.err) == (0, "")
    assert model_spec.read_spec("part").transformer == model_spec.read_spec(model).transformer
    weights = load_state("part/transformer").values()
    assert {weight.dtype for weight in weights} == {torch.bfloat16}


def test_inspect_identifies_a_model(run, model, workdir):
    result = run("inspect", model, "--values", "--config")
    assert result.status == 0
    first, *rest = result.out.splitlines()
    assert first == f"{model}: diffusers folder, matches 2b"
    assert rest[-1] == "no problems found"
    assert any(line.split()[0] == "text_encoder" and "float32" in line for line in rest)
    assert '      "num_layers": 2,' in rest


def test_inspect_lists_problems(run, model, workdir):
    run("convert", model, "part.safetensors", "--part", "transformer")
    state = load_state("part.safetensors")
    state["extra"] = torch.ones(1)
    state["proj_out.bias"] = state["proj_out.bias"] * float("inf")
    save_state(state, "bare.safetensors")
    result = run("inspect", "bare.safetensors")
    assert (
        result.status == 0
        and "problem: the config of the transformer is unknown: the tensors do not show whether its pos" in result.out
    )
    assert result.out.endswith("1 problem found\n")
    run("convert", model, "copy")
    save_state(state, "copy/transformer/diffusion_pytorch_model.safetensors")
    assert "problem: transformer: 1 unexpected tensor (extra)" in run("inspect", "copy").out
    del state["extra"]
    save_state(state, "copy/transformer/diffusion_pytorch_model.safetensors")
    assert "no problems" in run("inspect", "copy").out
    assert "NaN or infinity (proj_out.bias)" in run("inspect", "copy", "--values").out
    vae = load_state("copy/vae")
    save_state(vae | {"extra": torch.ones(1)}, "copy/vae/diffusion_pytorch_model.safetensors")
    out = run("inspect", "copy", "--values").out
    assert "NaN or infinity (proj_out.bias)" in out and "(extra)" in out and out.endswith("2 problems found\n")


def test_inspect_describes_a_lora(run, workdir):
    name = "transformer.transformer_blocks.0.attn1.to_q"
    state = {f"{name}.lora_A.weight": torch.ones(4, 32), f"{name}.lora_B.weight": torch.ones(32, 4)}
    save_state(state, "lora.safetensors")
    out = run("inspect", "lora.safetensors").out
    assert out.splitlines()[0].endswith("lora.safetensors: LoRA")
    assert out.splitlines()[1].split() == ["rank", "4"]
    assert read_lora("lora.safetensors").layers.keys() == {"transformer_blocks.0.attn1.to_q"}
    assert "a LoRA, which has no config" in run("inspect", "lora.safetensors", "--config").err
    (workdir / "checkpoint").mkdir()  # as a trainer writes it
    (workdir / "lora.safetensors").rename("checkpoint/pytorch_lora_weights.safetensors")
    torch.save({"step": 1}, "checkpoint/optimizer.bin")
    assert "rank          4" in run("inspect", "checkpoint").out


def test_a_sat_lora_becomes_a_diffusers_lora(run, workdir):
    """Alpha is 1, and the frozen base weights in the same file are dropped."""
    layer = "model.diffusion_model.transformer.layers.1.attention.dense"
    factors = {f"{layer}.matrix_A.0": torch.rand(4, 32), f"{layer}.matrix_B.0": torch.rand(32, 4)}
    (workdir / "trained/500").mkdir(parents=True)
    (workdir / "trained/latest").write_text("500")
    torch.save(
        {"module": factors | {"model.diffusion_model.time_embed.0.bias": torch.ones(3)}},
        "trained/500/mp_rank_00_model_states.pt",
    )
    result = run("convert", "trained", "style.safetensors", "--dtype", "bfloat16")
    assert (result.status, result.err) == (0, "") and "a LoRA of 1 layer," in result.out
    state = load_state("style.safetensors")
    names = [f"transformer.transformer_blocks.1.attn1.to_out.0.lora_{part}.weight" for part in "AB"]
    down, up = (state[name] for name in names)
    assert torch.equal(down, factors[f"{layer}.matrix_A.0"].bfloat16()) and len(state) == 2
    assert torch.equal(up, factors[f"{layer}.matrix_B.0"].bfloat16() / 4)
    for arguments, message in (
        (["style"], "TARGET must end in .safetensors"),
        (["x.safetensors", "--base", "toybox", "--part", "vae"], "a LoRA, and --base, --part applies only to models"),
    ):
        result = run("convert", "trained", *arguments)
        assert result.status == 2 and message in result.err
    save_state(state | {names[0]: down * 1e6}, "large.safetensors")
    save_state(state, "no-alpha.safetensors")
    result = run("convert", "no-alpha.safetensors", "no-alpha.safetensors")
    assert result.status == 0 and "use no-alpha.safetensors with a strength of alpha / rank" in result.err
    (workdir / "no-alpha.safetensors").unlink()
    result = run("convert", "large.safetensors", "x.safetensors", "--dtype", "float16")
    assert result.status == 2 and "has values too large for float16: transformer_blocks.1.attn1.to_out.0" in result.err
    assert sorted(path.name for path in workdir.iterdir()) == ["large.safetensors", "style.safetensors", "trained"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert"], "needs two arguments, SOURCE and TARGET"),
        (["convert", "toybox"], "needs two arguments, SOURCE and TARGET"),
        (["convert", "nowhere", "x"], "there is no model 'nowhere'"),
        (["convert", "", "x"], "there is no model ''"),
        (["convert", "toybox", "x.pt"], "cannot write x.pt: use a name that ends in .safetensors"),
        (["convert", "toybox", "x.GGUF"], "cannot write x.GGUF"),
        (["convert", "toybox", "x.SAFETENSORS"], "must end in .safetensors"),
        (["convert", "toybox", "/"], "it would replace the current folder"),
        (["convert", "toybox", "."], "it would replace the current folder"),
        (["convert", "toybox", "x", "--variant", "5b"], "is 2b, not 5b"),
        (["convert", "toybox", "x", "--part", "vae"], "--part chooses the network for a single file"),
        (["convert", "toybox", "x", "--dtype", "int8"], "--dtype int8 must be one of"),
        (["convert", "toybox", "x", "--variant", "7b"], "--variant 7b must be one of '2b'"),
        (["convert", "toybox", "x", "--max-shard-gb", "0"], "must be a number above 0"),
        (["convert", "toybox", "x", "--max-shard-gb", "inf"], "must be a number above 0"),
        (["convert", "toybox", "x.safetensors", "--max-shard-gb", "1"], "a single file is never split"),
        (["convert", "toybox", "thesis"], "not empty and not a model"),
        (["convert", "evil.pt", "x"], "cannot read evil.pt: it would run code"),
        (["inspect"], "needs a PATH"),
        (["inspect", ""], "there is no model ''"),
        (["inspect", "evil.pt"], "cannot read evil.pt: it would run code"),
        (["inspect", "thesis"], "contains no model"),
    ],
)
def test_invalid_arguments_are_rejected(run, workdir, arguments, message):
    (workdir / "thesis").mkdir()
    (workdir / "thesis/one.txt").write_text("years of work")
    torch.save({"module": Evil()}, "evil.pt")
    result = run(*arguments)
    assert result.status == 2 and result.out == ""
    assert result.err.startswith("cogvideox: ") and message in result.err and result.err.count("\n") == 1
    assert sorted(path.name for path in workdir.iterdir()) == ["evil.pt", "thesis"]
