"""`plan NAME` says what `generate --plan` says for folders of the official models in real size.

The folders have the official configs, and weight files with real headers and no content (sparse files), so that they
take no space. Nothing is loaded.
"""

import json
import struct
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cogvideox.cli.plan import TABLE_GPUS
from cogvideox.generation import setup
from cogvideox.pretrained.components import build_network, component_name, diffusers_keymap
from cogvideox.pretrained.model_folder import write_json_files
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, component_config, model_index
from cogvideox.pretrained.offload.hardware import hypothetical_gpu
from cogvideox.pretrained.presets import preset_spec
from cogvideox.state_dict.export import external_meta
from tests import tiny

SAFETENSORS_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16"}


def write_sparse(path: Path, meta: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file whose tensors are holes of the file."""
    header, offset = {}, 0
    for name, tensor in meta.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + offset)


def official_folder(path: Path, name: str) -> Path:
    """Write the folder of an official model with the T5-XXL encoder, 18 to 22 GB, as sparse files."""
    spec = preset_spec(name)
    dtype = getattr(torch, spec.settings.dtype)
    networks = (spec.transformer, spec.vae, spec.text_encoder)
    files = {f"{component_name(config)}/config.json": component_config(config) for config in networks}
    files["model_index.json"] = model_index(spec.transformer, spec.vae, spec.settings.sampler)
    files["scheduler/scheduler_config.json"] = spec.schedule.to_diffusers(spec.settings.sampler)
    write_json_files(path, files)
    for config in networks:
        component = component_name(config)
        meta = external_meta(build_network(config).state_dict(), diffusers_keymap(config), dtype)
        write_sparse(path / component / f"{WEIGHT_STEMS[component]}.safetensors", meta)
    tiny.tokenizer().save(path / "tokenizer")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2b", "5b", "5b-i2v", "1.5-5b"])
def test_the_plan_of_an_official_model_needs_no_weights(run, workdir, tmp_path, monkeypatch, name):
    folder = official_folder(tmp_path / name, name)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert size > 12e9 and sum(file.stat().st_blocks for file in folder.rglob("*.safetensors")) * 512 < 1e7
    image = ("--image", "x.png") if name.endswith("i2v") else ()
    Image.new("RGB", (720, 480)).save(workdir / "x.png")
    for gibibytes, gpu in TABLE_GPUS.items():
        options = ("--gpu", gpu, "--vram", f"{gibibytes}GB")
        machine = hypothetical_gpu(gpu, gibibytes, preset_spec(name).settings.dtype)
        monkeypatch.setattr(setup, "detect_hardware", lambda *_, machine=machine, **__: machine)
        expected = run("generate", "a red ball", "--model", folder, "--plan", *image)
        without_weights, with_weights = run("plan", name, *options), run("plan", folder, *options)
        lines = without_weights.out.splitlines()
        print(f"{name}, {gibibytes} GiB: {lines[1]}", file=sys.stderr)
        assert lines[1:] == with_weights.out.replace(str(folder), name).splitlines()[1:]
        if without_weights.status == 0:
            # `generate` also prints the measured speed of this machine's CPU.
            plan = [line for line in expected.out.splitlines() if not line.startswith("  speed")]
            assert expected.status == 0 and lines[1:-1] == plan, expected
        else:
            reason = lines[1].removeprefix(f"does not fit: {name} ")
            assert expected.status == 2 and reason in expected.err, expected
