"""Estimated and measured peak memory of a generation on the CPU, in every placement, for three small models.

python benchmarks/memory.py                # 0.3 to 1.2 GB of random weights each, a few minutes
python benchmarks/memory.py --tiny         # tiny weights, for a smoke test

Every generation runs in a separate process. Its peak memory is the peak resident set size minus the size after all
imports and a generation with a tiny model. The weights are in a temporary folder, in float32 or bfloat16. `error` is
the relative error of the estimate; all videos of a model are compared to the video of the resident placement.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import SUPPRESS
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, Report, apply_options, option_parser, reset_peak, resident_bytes, write_report

from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.workload import default_workload
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import build_network
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_settings import ModelSettings
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.memory_planner import estimate_plan
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.offload.plan import Workload
from cogvideox.pretrained.offload.transformer_cost import OffloadStrategy
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

PLACEMENTS: dict[str, tuple[OffloadStrategy, OffloadStrategy]] = {
    "resident": ("resident", "resident"),
    "model offload": ("model_offload", "model_offload"),
    "group offload": ("group_offload", "group_offload"),
}


class SmallModel:
    """The configs of a small model with random weights, and the size of its videos."""

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        text_layers: int,
        text_width: int,
        vae_widths: tuple[int, ...],
        size: tuple[int, int, int],
        stored: torch.dtype,
        strips: int,
        rotary: bool = False,
    ) -> None:
        self.size, self.stored, self.vae_slicing = size, stored, VAESlicing(strips)
        frames, height, width = size
        self.transformer = TransformerConfig(
            num_attention_heads=heads,
            num_layers=layers,
            text_embed_dim=text_width,
            max_text_seq_length=32,
            sample_height=height // 8,
            sample_width=width // 8,
            sample_frames=frames,
            use_rotary_positional_embeddings=rotary,
        )
        self.text = T5Config(
            vocab_size=256, d_model=text_width, d_kv=64, d_ff=4 * text_width, num_layers=text_layers, num_heads=8
        )
        self.vae = VAEConfig(block_out_channels=vae_widths, layers_per_block=1, norm_num_groups=8)

    def tiny(self) -> "SmallModel":
        """Return a tiny model of the same kind."""
        return SmallModel(
            layers=2, heads=2, text_layers=2, text_width=64, vae_widths=(8, 8, 8, 8), size=(9, 32, 32),
            stored=self.stored, strips=self.vae_slicing.strips,
            rotary=self.transformer.use_rotary_positional_embeddings,
        )  # fmt: skip


MODELS = {
    "many blocks, float32": SmallModel(
        layers=20, heads=12, text_layers=12, text_width=768, vae_widths=(16, 16, 16, 16), size=(9, 64, 96),
        stored=torch.float32, strips=1,
    ),
    "large text encoder, bfloat16": SmallModel(
        layers=12, heads=8, text_layers=20, text_width=1024, vae_widths=(16, 16, 16, 16), size=(9, 64, 96),
        stored=torch.bfloat16, strips=1, rotary=True,
    ),
    "large frames, VAE in 4 strips": SmallModel(
        layers=8, heads=6, text_layers=4, text_width=384, vae_widths=(32, 64, 64, 128), size=(17, 256, 384),
        stored=torch.float32, strips=4,
    ),
}  # fmt: skip


def write(model: SmallModel, path: Path) -> Path:
    """Write a model folder with random weights that preserve the scale of activations."""
    torch.manual_seed(0)
    networks: dict[str, Any] = {}
    for part, config in (("transformer", model.transformer), ("vae", model.vae), ("text_encoder", model.text)):
        network = build_network(config).to_empty(device="cpu")
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1)
        networks[part] = network
    toybox = model_folder.load("toybox")
    frames, height, width = model.size
    settings: ModelSettings = replace(
        toybox.settings, num_frames=frames, height=height, width=width, num_inference_steps=2, text_length=32
    )
    settings = replace(settings, position_rule=model.transformer.position_rule)
    loaded = LoadedModel(**networks, tokenizer=toybox.tokenizer, schedule=Schedule(), settings=settings)
    return model_folder.save(loaded, path, dtype=model.stored)


def measure(path: Path, tiny_path: Path, placement: str, strips: int) -> dict[str, Any]:
    """Measure time and peak memory of a generation in this process."""
    warnings.simplefilter("ignore")  # about sizes outside of the trained range
    generate(read_spec(tiny_path), placement, strips)  # warm-up: imports and initialization
    reset_peak()
    before, start = resident_bytes("VmRSS"), time.perf_counter()
    frames = generate(read_spec(path), placement, strips)
    seconds, peak = time.perf_counter() - start, resident_bytes("VmHWM") - before
    return {"peak_bytes": peak, "seconds": seconds, "video": hashlib.sha256(frames.tobytes()).hexdigest()}


def generate(spec: ModelSpec, placement: str, strips: int) -> np.ndarray:
    hardware = detect_hardware(torch.device("cpu"), "float32", measured=False)
    plan = estimate_plan(
        profile_model(spec), default_workload(spec), hardware, PLACEMENTS[placement], VAESlicing(strips)
    )
    return CogVideoX.from_pretrained(spec, "cpu", memory=plan).generate("a red ball", seed=0).frames


def measure_placements(name: str, model: SmallModel, rounds: int) -> Report:
    """Measure all placements of a model, each in separate processes."""
    hardware = detect_hardware(torch.device("cpu"), "float32", measured=False)
    with tempfile.TemporaryDirectory() as root:
        path, tiny_path = write(model, Path(root) / "model"), write(model.tiny(), Path(root) / "tiny")
        spec = read_spec(path)
        workload: Workload = default_workload(spec)
        variants: dict[str, Any] = {}
        for placement, strategies in PLACEMENTS.items():
            command = [
                sys.executable,
                __file__,
                "--measure",
                str(path),
                str(tiny_path),
                placement,
                str(model.vae_slicing.strips),
            ]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
            expected = estimate_plan(profile_model(spec), workload, hardware, strategies, model.vae_slicing).peak
            peak = sorted(run["peak_bytes"] for run in runs)[len(runs) // 2]
            variants[placement] = {
                "median": sorted(run["seconds"] for run in runs)[len(runs) // 2],
                "expected_bytes": expected,
                "peak_bytes": peak,
                "error": expected / peak - 1,
                "same_video": all(run["video"] == variants.get("resident", runs[0])["video"] for run in runs),
                "video": runs[0]["video"],
            }
        for variant in variants.values():
            variant["peak_over_resident"] = variant["peak_bytes"] / variants["resident"]["peak_bytes"]
    for variant in variants.values():
        del variant["video"]
    frames, height, width = model.size
    return {"task": f"{name}: {frames}x{height}x{width}", "reference": "resident", "variants": variants}


def main() -> None:
    parser = option_parser(__doc__, "memory", rounds=3, seconds=0)
    parser.add_argument("--measure", nargs=4, metavar=("FOLDER", "TINY", "PLACEMENT", "STRIPS"), help=SUPPRESS)
    parser.add_argument("--only", help="only models whose name contains this text")
    options = parser.parse_args()
    apply_options(options)
    if options.measure:
        path, tiny_path, placement, strips = options.measure
        print(json.dumps(measure(Path(path), Path(tiny_path), placement, int(strips))))
        return
    selected = {name: model for name, model in MODELS.items() if options.only is None or options.only in name}
    rounds = 1 if options.tiny else options.rounds
    rows = [
        measure_placements(name, model.tiny() if options.tiny else model, rounds) for name, model in selected.items()
    ]
    write_report("memory", {"steps": 2, "root": ROOT.name}, rows, options.out)


if __name__ == "__main__":
    main()
