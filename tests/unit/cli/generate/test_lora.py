"""`cogvideox generate --lora`."""

import json

import torch
from safetensors.torch import save_file

from cogvideox.pretrained.model_folder import load
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import write_lora


def test_a_lora_is_applied_recorded_and_repeated(run, model, workdir):
    one = inject.create_lora(load(model).transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in one.layers.values():
        factors.up.normal_()
    write_lora(one, workdir / "style.safetensors")
    words = ("generate", "a red ball", "--model", model, "--seed", 3)
    assert run(*words, "-o", "plain.png").status == 0
    ran = run(*words, "-o", "x.png", "--lora", "style.safetensors:0.5", "--lora", "style.safetensors")
    assert ran.status == 0 and ran.err == ""
    assert (workdir / "x.png").read_bytes() != (workdir / "plain.png").read_bytes()
    assert [used["strength"] for used in json.loads((workdir / "x.json").read_text())["loras"]] == [0.5, 1.0]
    assert run("generate", "--from", "x.json", "-o", "again.png").status == 0
    assert (workdir / "again.png").read_bytes() == (workdir / "x.png").read_bytes()

    (workdir / "prompts.txt").write_text("a red ball\n")
    many = ("generate", "--prompts", "prompts.txt", "--model", model, "-o", "videos")
    assert run(*many).status == 0
    assert "1 of 1 videos exist already" in run(*many).err
    assert "exist already" not in run(*many, "--lora", "style.safetensors").err

    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.ones(1, 1)}, workdir / "style.safetensors")
    ran = run("generate", "--from", "x.json", "-o", "again.png")
    assert ran.status == 2 and "style.safetensors has changed since" in ran.err
    ran = run(*words, "--lora", "style.safetensors")
    assert ran.status == 2 and "it seems to be a LoRA for Wan" in ran.err
    for text in ("", ":", ":0.5"):
        ran = run(*words, "--lora", text)
        assert ran.status == 2 and f"--lora {text!r} has no file: write FILE or FILE:STRENGTH" in ran.err
    ran = run(*words, "--lora", "none.safetensors:1")
    assert ran.status == 2 and "none.safetensors: file not found" in ran.err
