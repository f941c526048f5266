"""Forward passes of the transformer and the VAE on this CPU, in each dtype, relative to diffusers' fastest dtype.

python benchmarks/cpu.py --threads 1             # all tasks, a few minutes on one core
python benchmarks/cpu.py --preset transformer-small --tiny

The reference of each task is diffusers in the dtype that is fastest on this CPU (float32 or bfloat16). Weights are
random, and equal up to rounding in both dtypes. `error` is the relative L2 error, with diffusers in float32 as
reference; in bfloat16 it may be at most 1.1 times that of diffusers. `fraction_of_kernel_speed` is relative to the
speed of bare matrix products, attention and convolutions in the same dtype, measured in the same run with the same
clock.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformer as transformer_benchmark
import vae as vae_benchmark
from common import Report, interleave, make_row, option_parser, parse_options, write_report
from pairs import transformers, vaes
from torch import Tensor, nn

from cogvideox.hardware.cpu_probe import DTYPES, KernelRates, cpu_clock, cpu_identity, measure
from cogvideox.pretrained.offload.transformer_cost import BatchShape, transformer_flops
from cogvideox.pretrained.offload.vae_cost import vae_flops
from cogvideox.transformer.acceleration.attention_backends import fastest_backend
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.config import VAEConfig

MAX_ERROR = 1.1
"""Maximum error in bfloat16, relative to that of diffusers."""
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8")

Calls = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Task:
    """The calls of one task in one dtype, by implementation, and the seconds that its kernels alone would take."""

    calls: Calls
    kernel_seconds: Callable[[KernelRates], float]


def transformer_task(
    config: TransformerConfig, size: tuple[int, int, int], batch: int, seed: int, dtype: torch.dtype
) -> Task:
    """Return the forward pass as in a sampler: the modulation is precomputed, and the probe selects the attention."""
    pair = transformers(config, size, batch=batch, seed=seed)
    names = {"latents": pair.latents.to(dtype), "text": pair.text.to(dtype)}
    if dtype != torch.float32:
        names |= {"cogvideox": cast(pair.cogvideox, dtype), "diffusers": nn.Module.to(pair.diffusers, dtype)}
    if pair.rope is not None:
        names["rope"] = pair.rope
    pair = replace(pair, **names)
    tables = pair.cogvideox.precompute_modulation(pair.timestep[:1])[0]
    shape = BatchShape(batch, *size, config.max_text_seq_length)
    linear, attention = transformer_flops(config, shape)
    backend = fastest_backend(
        config.num_attention_heads,
        shape.tokens(config),
        batch,
        dtype,
        torch.device("cpu"),
        head_dim=config.attention_head_dim,
    )

    def predict() -> Tensor:
        return pair.cogvideox(
            pair.latents, pair.text, None, positions=pair.positions, modulation=tables, attend=backend.attend
        )

    return Task(
        {"diffusers": pair.predict_with_diffusers, "cogvideox": predict},
        lambda rates: linear / rates.linear + attention / rates.best_attention,
    )


def cast(network: Transformer, dtype: torch.dtype) -> Transformer:
    """Return a network in a different dtype. It is a copy: diffusers' network may share the original's memory."""
    other = Transformer(network.config).requires_grad_(False).eval()
    other.load_state_dict({name: tensor.to(dtype) for name, tensor in network.state_dict().items()}, assign=True)
    return other


@torch.inference_mode(False)  # weights that are inference tensors cannot be kept prepared
def vae_task(verb: str, config: VAEConfig, size: tuple[int, int, int], seed: int, dtype: torch.dtype) -> Task:
    """Return the task of decoding or encoding a clip; `size` is its number of frames, height and width."""
    cogvideox, diffusers = vaes(config, seed=seed)
    cogvideox, diffusers = cogvideox.to(dtype), nn.Module.to(diffusers, dtype)
    calls = vae_benchmark.build_tasks(cogvideox, diffusers, size, seed, dtype)[verb]
    t, h, w = size
    flops = vae_flops(config, (t - 1) // 4 + 1, h // 8, w // 8, decoder=verb == "decode")
    return Task({name: calls[name] for name in ("diffusers", "cogvideox")}, lambda rates: flops / rates.convolution)


def build_tasks(tiny: bool, seed: int) -> dict[str, Callable[[torch.dtype], Task]]:
    """Return the functions that build each task in a dtype, by task name."""
    tasks: dict[str, Callable[[torch.dtype], Task]] = {}
    networks = transformer_benchmark.TINY if tiny else transformer_benchmark.PRESETS
    for name, (_, config, size, batch) in networks.items():
        tasks[f"transformer-{name}"] = lambda dtype, c=config, s=size, b=batch: transformer_task(c, s, b, seed, dtype)
    for name, (_, config, size) in (vae_benchmark.TINY if tiny else vae_benchmark.PRESETS).items():
        for verb in ("decode", "encode"):
            tasks[f"{verb}-{name}"] = lambda dtype, v=verb, c=config, s=size: vae_task(v, c, s, seed, dtype)
    return tasks


def measure_task(
    name: str, build: Callable[[torch.dtype], Task], rates: Mapping[str, KernelRates], options: Any
) -> Report:
    """Time a task in every dtype, interleaved, and check the errors.

    Raises:
        SystemExit: the error in bfloat16 is too large compared with that of diffusers.
    """
    built = {dtype: build(DTYPES[dtype]) for dtype in rates}
    calls = {f"{way}, {dtype}": call for dtype, task in built.items() for way, call in task.calls.items()}
    outputs = {variant: call().float() for variant, call in calls.items()}
    exact = outputs["diffusers, float32"]
    errors = {variant: ((output - exact).norm() / exact.norm()).item() for variant, output in outputs.items()}
    for dtype in rates:
        ours, theirs = errors[f"cogvideox, {dtype}"], errors[f"diffusers, {dtype}"]
        if not ours <= max(MAX_ERROR * theirs, 1e-5):
            raise SystemExit(f"{name}: the error in {dtype} is {ours:.2g}, that of diffusers {theirs:.2g}")
    times = interleave(calls, options.rounds, seconds=options.seconds, warmup=0, clock=cpu_clock)
    medians = {variant: statistics.median(seconds) for variant, seconds in times.items()}
    best = min((variant for variant in times if variant.startswith("diffusers")), key=medians.__getitem__)
    times = {best: times[best]} | times
    fractions = {
        variant: built[variant.partition(", ")[2]].kernel_seconds(rates[variant.partition(", ")[2]]) / medians[variant]
        for variant in times
    }
    return make_row(name, times, error=errors, fraction_of_kernel_speed=fractions)


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__, "cpu", rounds=7, seconds=40)
    tiny = build_tasks(True, 0)
    options, selected = parse_options(parser, dict.fromkeys(build_tasks(False, 0)), dict.fromkeys(tiny))
    tasks = build_tasks(options.tiny, options.seed)
    probe = measure()
    rates = {dtype: kernels for dtype, kernels in probe.rates.items() if dtype in ("float32", "bfloat16")}
    rows = [measure_task(name, tasks[name], rates, options) for name in selected]
    flags = cpu_identity()[1].split()
    what = {
        "weights": f"random, seed {options.seed}",
        "cpu_features": [feature for feature in FEATURES if feature in flags],
        "gflops": {
            dtype: {kernel: round(rate / 1e9) for kernel, rate in vars(k).items()} for dtype, k in rates.items()
        },
        "geometric_mean": {
            kind: round(_mean_ratio([row for row in rows if row["task"].startswith(kind)]), 3)
            for kind in ("transformer", "decode", "encode")
        },
    }
    write_report("cpu", what, rows, options.out)


def _mean_ratio(rows: list[Report]) -> float:
    """Return the geometric mean of the best ratios of this package."""
    ratios = [max(v["ratio"] for name, v in row["variants"].items() if name.startswith("cogvideox")) for row in rows]
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else math.nan


if __name__ == "__main__":
    main()
