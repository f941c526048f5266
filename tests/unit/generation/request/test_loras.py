"""Loading, recording and unloading LoRAs with the pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.request.input_sources import parse_lora_argument
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import write_lora
from tests import tiny


def write_random_lora(pipe: CogVideoX, path: Path) -> Path:
    lora = inject.create_lora(pipe.model.transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in lora.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    write_lora(lora, path)
    return path


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> CogVideoX:
    return CogVideoX.from_pretrained(read_spec(tiny.write(tmp_path_factory.mktemp("models") / "tiny")), device="cpu")


def test_loras_add_up_and_unloading_restores_the_video(pipe: CogVideoX, tmp_path: Path):
    file = write_random_lora(pipe, tmp_path / "style.safetensors")
    generate = lambda: pipe.generate("a ball", seed=1, output="float")  # noqa: E731
    plain = generate()
    assert "loras" not in plain.metadata
    assert pipe.load_lora(file, 0.5) == "style"
    assert pipe.load_lora(tmp_path, -0.5) == "style-2"  # the only LoRA file in the folder
    assert pipe.loras == {"style": 0.5, "style-2": -0.5}
    assert np.allclose(generate().frames, plain.frames, atol=1e-4)

    pipe.unload_lora("style-2")
    unmerged = generate()
    assert np.abs(unmerged.frames - plain.frames).max() > 0.01
    assert [lora["strength"] for lora in unmerged.metadata["loras"]] == [0.5]
    assert unmerged.metadata["loras"][0]["source"]["path"] == str(file)
    pipe.unload_lora()
    assert pipe.load_lora(file, 0.5, name="merged", merge=True) == "merged"
    merged = generate()
    assert np.allclose(merged.frames, unmerged.frames, atol=1e-4) and merged.metadata["loras"][0]["merged"]
    pipe.unload_lora()
    repeated = generate()
    assert np.array_equal(repeated.frames, plain.frames) and repeated.metadata == plain.metadata


def test_a_file_without_alpha_is_a_warning(pipe: CogVideoX):
    lora = inject.create_lora(pipe.model.transformer, torch.Generator(), rank=1)
    with pytest.warns(UserWarning, match="use a strength of alpha / rank"):
        pipe.load_lora(inject.LoRA(lora.layers, alpha_known=False))
    pipe.unload_lora("lora")
    with pytest.raises(UserError, match="no LoRA called 'lora'"):
        pipe.unload_lora("lora")


def test_parse_the_lora_argument(tmp_path: Path):
    colon_path = tmp_path / "a:0.5"
    for file in (tmp_path / "x.safetensors", colon_path):
        file.write_bytes(b"x")
    file = tmp_path / "x.safetensors"
    for argument, path, strength in (
        (str(file), file, 1.0),
        (f"{file}:0.3", file, 0.3),
        (f"{file}:-1", file, -1.0),
        (str(colon_path), colon_path, 1.0),
        (f"{tmp_path}:2", file, 2.0),
    ):
        actual = parse_lora_argument(argument)
        assert (actual.source.path, actual.strength) == (str(path), strength)
    with pytest.raises(UserError, match="file not found"):
        parse_lora_argument(f"{tmp_path}/none.safetensors:0.5")
    with pytest.raises(UserError, match=r"y:z: file not found"):
        parse_lora_argument(f"{tmp_path}/y:z")
    for strength in ("nan", "abc", ""):
        with pytest.raises(UserError, match=f":{strength} must be a number, such as 0.8"):
            parse_lora_argument(f"{file}:{strength}")
