"""A LoRA, trained by one command from a folder of videos, has the same predictions in diffusers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvideox.cli.toybox import run as toybox
from cogvideox.cli.train import train
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.model_spec import find_model
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import read_lora
from tests.parity.test_transformer import random_inputs, reference_prediction, relative_error

pytest.importorskip("diffusers")

from diffusers import CogVideoXTransformer3DModel


def test_trained_lora_equals_diffusers(tmp_path: Path) -> None:
    size = ["--num-frames", "9", "--height", "64", "--width", "64", "--fps", "8"]
    toybox(["-o", str(tmp_path / "clips"), "--num-scenes", "6", *size])
    settings = {"run.num_steps": "4", "optim.lr": "0.02", "optim.warmup_steps": "0", "samples.prompts": "[]"}
    assert train("toybox-lora", settings, data=[str(tmp_path / "clips")], out=tmp_path / "run")
    file = tmp_path / "run/pytorch_lora_weights.safetensors"

    model = model_folder.load("toybox").transformer
    reference = CogVideoXTransformer3DModel.from_pretrained(
        find_model("toybox")[1] / "transformer", torch_dtype=torch.float32
    )
    inputs = random_inputs(model.config, (3, 8, 8))
    with torch.no_grad():
        before = model(**inputs)
        inject.add_lora(model, read_lora(file))
        reference.load_lora_adapter(load_file(file), prefix="transformer")
        after, expected = model(**inputs), reference_prediction(reference, inputs)
    assert relative_error(before, after) > 1e-3
    assert relative_error(after, expected) <= 1e-4
