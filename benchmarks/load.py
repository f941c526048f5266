"""Memory and time of loading a transformer from a sharded diffusers folder, here and in diffusers, and of converting.

python benchmarks/load.py                    # 79 M parameters, a few seconds
python benchmarks/load.py --preset 2b        # the real CogVideoX-2B, 3.4 GB of random weights, under a minute

Every load is a process of its own, ours and theirs in turn. Memory is the highest resident size
while loading minus the one before, after all imports and the load of a tiny model. After loading, every weight is read
once, on the clock: both keep weights of the wanted type in the mapped file, and what was never read was not loaded.
Ours looks for NaN on the way, theirs does not. Seconds of processor time, of all threads, do not mind other work on the
machine.
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
from common import ROOT, Report, finish, forget_peak, resident, row, write_json
from torch import Tensor, nn

from cogvideox.pretrained.components import build_network, diffusers_keymap, load_network
from cogvideox.pretrained.conversion.convert import plan_conversion
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, component_config
from cogvideox.state_dict.export import save_external
from cogvideox.transformer.config import PRESETS, TransformerConfig

SMALL = replace(PRESETS["2b"](), num_attention_heads=8, num_layers=12)
TINY = replace(PRESETS["2b"](), num_attention_heads=1, num_layers=1)


def write(config: TransformerConfig, folder: Path, dtype: torch.dtype, max_shard_bytes: int, seed: int) -> None:
    """Random weights as `folder/transformer/`, made and written a tensor at a time."""
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


def load_ours(folder: Path, dtype: torch.dtype) -> nn.Module:
    config = TransformerConfig.from_diffusers(json.loads((folder / "transformer/config.json").read_text()))
    return load_network(folder, config, dtype=dtype)


def convert(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Not a load: the same weights into a new folder, read and written. Gives the network without memory."""
    plan = plan_conversion(folder / "transformer", dtype=dtype)
    plan.write_folder(folder.with_name(f"{folder.name}-converted"))
    return build_network(plan.components["transformer"].config)


def load_theirs(folder: Path, dtype: torch.dtype) -> nn.Module:
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=dtype)


Measured = dict[str, float]
LOADERS = {"cogvideox": load_ours, "diffusers": load_theirs, "cogvideox convert": convert}


def measure(who: str, folder: Path, dtype: torch.dtype) -> Measured:
    """One load, in this process."""
    LOADERS[who](folder.parent / "tiny", dtype)  # what is imported and mapped once, whatever the size
    forget_peak()
    before = resident("VmRSS")
    began, processor = time.perf_counter(), time.process_time()
    network = LOADERS[who](folder, dtype)
    loaded = time.perf_counter()
    for weight in network.parameters():
        if weight.is_meta:
            continue
        weight.detach().view(torch.uint8 if weight.itemsize == 1 else torch.int16).max()
    read, processor = time.perf_counter(), time.process_time() - processor
    peak = resident("VmHWM") - before
    num_bytes = sum(weight.numel() * dtype.itemsize for weight in network.parameters())
    return {
        "load_seconds": loaded - began,
        "load_and_read_seconds": read - began,
        "processor_seconds": processor,
        "peak_bytes": peak,
        "peak_over_weights": peak / num_bytes,
        "sum": sum(weight.double().sum().item() for weight in network.parameters() if not weight.is_meta),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", choices=PRESETS, help="a real model; without it, one of 79 M parameters")
    p.add_argument("--stored", default="float16", choices=("float16", "bfloat16", "float32"), help="type on the disk")
    p.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"), help="type to load as")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--shard-gb", type=float, help="default: a quarter of the weights")
    p.add_argument("--folder", type=Path, help="where to write the weights (default: a temporary folder)")
    p.add_argument("--seed", type=int, default=0, help="of the weights")
    p.add_argument("--out", type=Path, default=ROOT / "build/benchmarks/load.json", help="the report")
    p.add_argument("--measure", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = p.parse_args()
    dtype = getattr(torch, options.dtype)
    if options.measure:
        who, folder = options.measure
        write_json(options.out, measure(who, Path(folder), dtype))
        return

    config = PRESETS[options.preset]() if options.preset else SMALL
    num_parameters = sum(tensor.numel() for tensor in build_network(config).state_dict().values())
    stored = getattr(torch, options.stored)
    shard = options.shard_gb * 1e9 if options.shard_gb else num_parameters * stored.itemsize / 4
    rounds: dict[str, list[Measured]] = {who: [] for who in LOADERS}
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        folder = Path(root) / "model"
        write(config, folder, stored, int(shard), options.seed)
        write(TINY, folder.with_name("tiny"), stored, int(shard), options.seed)
        for _ in range(options.rounds):
            for who, done in rounds.items():
                result = Path(root) / "result.json"
                command = [sys.executable, __file__, "--measure", who, str(folder), "--dtype", options.dtype]
                subprocess.run([*command, "--out", str(result)], check=True)
                done.append(json.loads(result.read_text()))
    check_same(rounds)
    what = {"stored": options.stored, "loaded_as": options.dtype, "weights": f"random, seed {options.seed}"}
    size = f"{options.preset or 'small'}, {num_parameters / 1e6:.0f} M parameters"
    loads = {who: rounds[who] for who in ("diffusers", "cogvideox")}
    rows = [row_of(f"load: {size}", loads), row_of(f"convert: {size}", {"cogvideox": rounds["cogvideox convert"]})]
    finish("load", what, rows, options.out)


def check_same(rounds: dict[str, list[Measured]]) -> None:
    """Whether everybody loaded the same numbers.

    Raises:
        SystemExit: no; then their times say nothing.
    """
    sums = [rounds[who][0]["sum"] for who in ("diffusers", "cogvideox")]
    if abs(sums[0] - sums[1]) > 1e-9 * abs(sums[0]):
        raise SystemExit(f"the weights loaded here add up to {sums[1]}, those of diffusers to {sums[0]}")


def row_of(task: str, rounds: dict[str, list[Measured]]) -> Report:
    facts = {
        key: {who: statistics.median(one[key] for one in done) for who, done in rounds.items()}
        for key in ("load_seconds", "processor_seconds", "peak_bytes", "peak_over_weights")
    }
    return row(task, {who: [one["load_and_read_seconds"] for one in done] for who, done in rounds.items()}, **facts)


if __name__ == "__main__":
    main()
