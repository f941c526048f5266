"""Generation with a model of the 2B's real size and random weights, in this package and diffusers, on this CPU.

python benchmarks/real_size.py                      # 14 GB on disk, up to 18 GB of memory, several minutes
python benchmarks/real_size.py --folder /data/2b    # keep the model, or use the one that is there
python benchmarks/real_size.py --tiny               # tiny weights, for a smoke test

The model has the official configs (2B transformer, VAE, T5-XXL) in bfloat16. Each generation runs in a separate
process: this package with `--dtype auto`, with automatic placement and with a limit of 7 GB, and diffusers in bfloat16
with all weights in memory.
Peak memory is the peak resident set size minus the size after all imports, so mapped pages of weight files count.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import SUPPRESS
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Report, apply_options, option_parser, reset_peak, resident_bytes, write_json, write_report
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, NetworkConfig, component_config
from cogvideox.pretrained.presets import preset_spec
from cogvideox.state_dict.export import save_external
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

PROMPT = "a red ball moves right on a white floor"
STEPS = 2
SIZE = (9, 256, 256)
TINY_SIZE = (9, 32, 32)
_NOISE = 1 << 22
"""Number of random values, which are repeated to fill large matrices quickly."""


def write_model(path: Path, *, tiny: bool) -> Path:
    """Write a model folder with random weights in bfloat16, one tensor at a time."""
    spec, toybox = preset_spec("2b"), model_folder.load("toybox")
    frames, height, width = TINY_SIZE if tiny else SIZE
    small = TransformerConfig(
        num_attention_heads=2, num_layers=2, text_embed_dim=64, max_text_seq_length=226, sample_height=height // 8,
        sample_width=width // 8, sample_frames=frames,
    )  # fmt: skip
    small_text = T5Config(vocab_size=256, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    small_vae = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    settings = replace(
        spec.settings, num_frames=frames, height=height, width=width, num_inference_steps=STEPS, position_rule=None
    )
    networks: dict[str, Any] = {
        name: build_network(config).to_empty(device="cpu")
        for name, config in (("transformer", small), ("text_encoder", small_text), ("vae", small_vae))
    }
    # Everything but the weights is that of a small model.
    model_folder.save(LoadedModel(**networks, tokenizer=toybox.tokenizer, schedule=Schedule(), settings=settings), path)
    real = (spec.transformer, spec.text_encoder, spec.vae)
    for name, config in zip(WEIGHT_STEMS, _in_order((small, small_text, small_vae) if tiny else real), strict=True):
        state = build_network(config).state_dict()
        (path / name / "config.json").write_text(json.dumps(component_config(config), indent=2))
        file = path / name / f"{WEIGHT_STEMS[name]}.safetensors"
        save_external(
            state,
            _random_tensors(state),
            file,
            rules=diffusers_keymap(config),
            dtype=torch.bfloat16,
            max_shard_bytes=5 * 10**9,
        )
    return path


def _in_order(configs: tuple[TransformerConfig, T5Config, VAEConfig]) -> list[NetworkConfig]:
    """Return the configs in the order of `WEIGHT_STEMS`."""
    by_name = dict(zip(("transformer", "text_encoder", "vae"), configs))
    return [by_name[name] for name in WEIGHT_STEMS]


def _random_tensors(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield random tensors that preserve the scale of activations; norms have weights around 1."""
    noise = torch.randn(_NOISE, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, tensor in state.items():
        count = tensor.numel()
        values = noise.repeat(-(-count // _NOISE))[:count].reshape(tensor.shape)
        if tensor.ndim > 1:
            yield name, values.mul_(tensor[0].numel() ** -0.5)
        else:
            yield name, values.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)


def measure_cogvideox(folder: Path, memory: str = "auto") -> dict[str, Any]:
    """Generate with this package. Seconds of loading, the prompt, the steps and decoding."""
    from cogvideox.generation.pipeline import CogVideoX

    before, start = _start()
    pipe = CogVideoX.from_pretrained(folder, "cpu", memory=memory)
    times = {"load": time.perf_counter() - start}
    start = time.perf_counter()
    with torch.inference_mode():
        pipe._embedder.embed(PROMPT)
        pipe._embedder.embed("")
    times["text"] = time.perf_counter() - start
    stages: dict[str, float] = {}
    start = time.perf_counter()
    pipe.generate(PROMPT, seed=0, on_step=lambda step: stages.update({step.stage: time.perf_counter()}))
    times |= {"steps": stages["denoise"] - start, "decode": time.perf_counter() - stages["denoise"]}
    return _result(times, before) | {"dtype": str(pipe.dtype).removeprefix("torch."), "plan": str(pipe.model.plan)}


def measure_diffusers(folder: Path) -> dict[str, Any]:
    """Generate with diffusers in bfloat16, as `measure_cogvideox` does."""
    from diffusers import CogVideoXPipeline

    before, start = _start()
    pipe: Any = CogVideoXPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    times = {"load": time.perf_counter() - start}
    index = json.loads((folder / "cogvideox.json").read_text())
    size = {name: index[name] for name in ("num_frames", "height", "width")}
    start = time.perf_counter()
    with torch.inference_mode():
        prompt, negative = pipe.encode_prompt(PROMPT, "", max_sequence_length=226)
        times["text"] = time.perf_counter() - start
        start = time.perf_counter()
        options = {"num_inference_steps": STEPS, "guidance_scale": 6.0, "output_type": "latent"}
        latents = pipe(prompt_embeds=prompt, negative_prompt_embeds=negative, **size, **options).frames
        times["steps"] = time.perf_counter() - start
        start = time.perf_counter()
        pipe.video_processor.postprocess_video(pipe.decode_latents(latents), output_type="np")
    times["decode"] = time.perf_counter() - start
    return _result(times, before) | {"dtype": "bfloat16"}


def _start() -> tuple[int, float]:
    warnings.simplefilter("ignore")
    reset_peak()
    return resident_bytes("VmRSS"), time.perf_counter()


def _result(times: dict[str, float], before: int) -> dict[str, Any]:
    total = sum(times.values()) - times["load"]
    return {"seconds_by_stage": times, "seconds": total, "peak_bytes": resident_bytes("VmHWM") - before}


LIMIT = "7GB"
PROGRAMS = {
    "diffusers": measure_diffusers,
    "cogvideox": measure_cogvideox,
    f"cogvideox, {LIMIT}": partial(measure_cogvideox, memory=LIMIT),
}


def measure_rounds(folder: Path, rounds: int, threads: int | None) -> Report:
    """Run both programs in turn, each in its own process, and return the row of the report."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name in PROGRAMS:
            with tempfile.TemporaryDirectory() as temporary:
                file = Path(temporary) / "result.json"
                command = [sys.executable, __file__, "--measure", name, str(folder), str(file)]
                command += [] if threads is None else ["--threads", str(threads)]
                subprocess.run(command, check=True, timeout=3600)
                runs[name].append(json.loads(file.read_text()))
    variants: dict[str, Any] = {}
    for name, results in runs.items():
        stages = results[0]["seconds_by_stage"]
        peak = max(result["peak_bytes"] for result in results)
        variants[name] = {
            "median": statistics.median(result["seconds"] for result in results),
            "ratio": 1.0,
            "seconds": [result["seconds"] for result in results],
            "dtype": results[0]["dtype"],
            "peak_bytes": peak,
            **{
                f"{stage}_seconds": statistics.median(result["seconds_by_stage"][stage] for result in results)
                for stage in stages
            },
        }
    reference = variants["diffusers"]
    for variant in variants.values():
        variant["ratio"] = reference["median"] / variant["median"]
        variant["relative_peak"] = variant["peak_bytes"] / reference["peak_bytes"]
    return {"task": "text, steps and decoding", "reference": "diffusers", "variants": variants}


def main() -> None:
    parser = option_parser(__doc__, "real-size", rounds=1, seconds=0)
    parser.add_argument("--folder", type=Path, help="folder of the model; it is written if it does not exist")
    parser.add_argument("--measure", nargs=3, metavar=("PROGRAM", "FOLDER", "RESULT"), help=SUPPRESS)
    options = parser.parse_args()
    apply_options(options)
    if options.measure:
        name, folder, file = options.measure
        write_json(Path(file), PROGRAMS[name](Path(folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not folder.exists():
            write_model(folder, tiny=options.tiny)
        row = measure_rounds(folder, options.rounds, options.threads)
    frames, height, width = TINY_SIZE if options.tiny else SIZE
    what = {"size": f"{frames}x{height}x{width}", "steps": STEPS, "weights": "random, bfloat16", "prompt": PROMPT}
    write_report("real-size", what, [row], options.out)


if __name__ == "__main__":
    main()
