"""Memory and time of conversion, and of loading a transformer from a sharded diffusers folder with both libraries.

python benchmarks/load.py                    # 79 M parameters, a few seconds
python benchmarks/load.py --preset 2b        # full-size CogVideoX-2B, 3.4 GB of random weights, under a minute

Every load runs in a separate process, alternating between the two libraries. Memory is the peak resident set size while
loading, minus the size after all imports and after loading a tiny model. The time includes reading every weight once,
because both libraries keep weights that need no cast in the memory-mapped file. This package also checks for NaN. CPU
time, of all threads, hardly depends on other programs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from common import ROOT, Report, make_row, reset_peak, resident_bytes, write_json, write_report
from torch import Tensor, nn

from cogvideox.pretrained.components import build_network, diffusers_keymap, load_network
from cogvideox.pretrained.conversion.convert import plan_conversion
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, component_config
from cogvideox.state_dict.export import save_external
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.presets import PRESETS

SMALL = replace(PRESETS["2b"](), num_attention_heads=8, num_layers=12)
TINY = replace(PRESETS["2b"](), num_attention_heads=1, num_layers=1)


def write(config: TransformerConfig, folder: Path, dtype: torch.dtype, max_shard_bytes: int, seed: int) -> None:
    """Write random weights to `folder/transformer/`, one tensor at a time."""
    part = folder / "transformer"
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(component_config(config)))
    meta = build_network(config).state_dict()
    generator = torch.Generator().manual_seed(seed)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in meta.items():
            yield name, torch.randn(tensor.shape, generator=generator) * 0.02

    file = part / f"{WEIGHT_STEMS['transformer']}.safetensors"
    save_external(meta, tensors(), file, rules=diffusers_keymap(config), dtype=dtype, max_shard_bytes=max_shard_bytes)


def load_with_cogvideox(folder: Path, dtype: torch.dtype) -> nn.Module:
    config = TransformerConfig.from_diffusers(json.loads((folder / "transformer/config.json").read_text()))
    return load_network(folder, config, dtype=dtype)


def convert(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Convert the weights to a new folder instead of loading them. Return the network on the meta device."""
    plan = plan_conversion(folder / "transformer", dtype=dtype)
    plan.write_folder(folder.with_name(f"{folder.name}-converted"))
    return build_network(plan.components["transformer"].config)


def load_with_diffusers(folder: Path, dtype: torch.dtype) -> nn.Module:
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=dtype)


Measurement = dict[str, float]
LOADERS = {"cogvideox": load_with_cogvideox, "diffusers": load_with_diffusers, "cogvideox convert": convert}


def measure(loader: str, folder: Path, dtype: torch.dtype) -> Measurement:
    """Measure time and peak memory of a load in this process."""
    LOADERS[loader](folder.parent / "tiny", dtype)  # warm-up: imports and initialization
    reset_peak()
    before = resident_bytes("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    network = LOADERS[loader](folder, dtype)
    loaded = time.perf_counter()
    for weight in network.parameters():
        if weight.is_meta:
            continue
        weight.detach().view(torch.uint8 if weight.itemsize == 1 else torch.int16).max()
    read, cpu = time.perf_counter(), time.process_time() - cpu
    peak = resident_bytes("VmHWM") - before
    num_bytes = sum(weight.numel() * dtype.itemsize for weight in network.parameters())
    return {
        "load_seconds": loaded - start,
        "load_and_read_seconds": read - start,
        "processor_seconds": cpu,
        "peak_bytes": peak,
        "peak_over_weights": peak / num_bytes,
        "sum": sum(weight.double().sum().item() for weight in network.parameters() if not weight.is_meta),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    dtypes = ("float16", "bfloat16", "float32")
    parser.add_argument("--preset", choices=PRESETS, help="an official model (default: one with 79 M parameters)")
    parser.add_argument("--stored", default="float16", choices=dtypes, help="dtype of the files")
    parser.add_argument("--dtype", default="float16", choices=dtypes, help="dtype to load as")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-gb", type=float, help="shard size (default: a quarter of the weights)")
    parser.add_argument("--folder", type=Path, help="parent folder of the temporary weights (default: the system's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument("--out", type=Path, default=ROOT / "build/benchmarks/load.json", help="path of the JSON report")
    parser.add_argument("--measure", nargs=2, metavar=("LOADER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    if options.measure:
        loader, folder = options.measure
        write_json(options.out, measure(loader, Path(folder), dtype))
        return

    config = PRESETS[options.preset]() if options.preset else SMALL
    num_parameters = sum(tensor.numel() for tensor in build_network(config).state_dict().values())
    stored = getattr(torch, options.stored)
    shard = options.shard_gb * 1e9 if options.shard_gb else num_parameters * stored.itemsize / 4
    rounds: dict[str, list[Measurement]] = {loader: [] for loader in LOADERS}
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        folder = Path(root) / "model"
        write(config, folder, stored, int(shard), options.seed)
        write(TINY, folder.with_name("tiny"), stored, int(shard), options.seed)
        for _ in range(options.rounds):
            for loader, measurements in rounds.items():
                result = Path(root) / "result.json"
                command = [sys.executable, __file__, "--measure", loader, str(folder), "--dtype", options.dtype]
                subprocess.run([*command, "--out", str(result)], check=True)
                measurements.append(json.loads(result.read_text()))
    check_equal_weights(rounds)
    settings = {"stored": options.stored, "loaded_as": options.dtype, "weights": f"random, seed {options.seed}"}
    size = f"{options.preset or 'small'}, {num_parameters / 1e6:.0f} M parameters"
    loads = {library: rounds[library] for library in ("diffusers", "cogvideox")}
    conversions = {"cogvideox": rounds["cogvideox convert"]}
    rows = [summarize(f"load: {size}", loads), summarize(f"convert: {size}", conversions)]
    write_report("load", settings, rows, options.out)


def check_equal_weights(rounds: dict[str, list[Measurement]]) -> None:
    """Check that both libraries loaded the same values.

    Raises:
        SystemExit: the values differ, so times cannot be compared.
    """
    sums = [rounds[library][0]["sum"] for library in ("diffusers", "cogvideox")]
    if abs(sums[0] - sums[1]) > 1e-9 * abs(sums[0]):
        raise SystemExit(f"the sum of the weights is {sums[1]}, but {sums[0]} in diffusers")


def summarize(task: str, rounds: dict[str, list[Measurement]]) -> Report:
    medians = {
        key: {variant: statistics.median(m[key] for m in measurements) for variant, measurements in rounds.items()}
        for key in ("load_seconds", "processor_seconds", "peak_bytes", "peak_over_weights")
    }
    times = {variant: [m["load_and_read_seconds"] for m in measurements] for variant, measurements in rounds.items()}
    return make_row(task, times, **medians)


if __name__ == "__main__":
    main()
