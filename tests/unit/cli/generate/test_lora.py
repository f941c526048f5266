"""`cogvideox generate --lora`."""

import json

import torch
from safetensors.torch import save_file

from cogvideox.pretrained.model_folder import load
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import write_lora


def test_a_lora_is_applied_recorded_and_repeated(run, model, workdir):
    lora = inject.create_lora(load(model).transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in lora.layers.values():
        factors.up.normal_()
    write_lora(lora, workdir / "style.safetensors")
    words = ("generate", "a red ball", "--model", model, "--seed", 3)
    assert run(*words, "-o", "plain.png").status == 0
    result = run(*words, "-o", "x.png", "--lora", "style.safetensors:0.5", "--lora", "style.safetensors")
    assert result.status == 0 and result.err == ""
    assert (workdir / "x.png").read_bytes() != (workdir / "plain.png").read_bytes()
    assert [used["strength"] for used in json.loads((workdir / "x.json").read_text())["loras"]] == [0.5, 1.0]
    assert run("generate", "--from", "x.json", "-o", "again.png").status == 0
    assert (workdir / "again.png").read_bytes() == (workdir / "x.png").read_bytes()

    (workdir / "prompts.txt").write_text("a red ball\n")
    prompt_file = ("generate", "--prompts", "prompts.txt", "--model", model, "-o", "videos")
    assert run(*prompt_file).status == 0
    assert "1 of 1 videos already exist" in run(*prompt_file).err
    assert "other settings: pass --overwrite" in run(*prompt_file, "--lora", "style.safetensors").err

    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.ones(1, 1)}, workdir / "style.safetensors")
    result = run("generate", "--from", "x.json", "-o", "again.png")
    assert result.status == 2 and "style.safetensors has changed since" in result.err
    result = run(*words, "--lora", "style.safetensors")
    assert result.status == 2 and "it seems to be a LoRA for Wan" in result.err
    for text in ("", ":", ":0.5"):
        result = run(*words, "--lora", text)
        assert result.status == 2 and f"--lora {text!r} has no file: write FILE or FILE:STRENGTH" in result.err
    result = run(*words, "--lora", "none.safetensors:1")
    assert result.status == 2 and "none.safetensors: file not found" in result.err
