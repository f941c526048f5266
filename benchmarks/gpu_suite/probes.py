"""Short checks that need a GPU, one function per part of `gpu_check.py`.

Axes: b batch, c channels, t frames, h w height and width.
"""

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import ROOT, environment, interleave, synchronize
from gpu_suite.run import Run, kernels, relative_l2
from gpu_suite.shapes import config_of, shape_of
from torch import Tensor
from torch.nn.attention import list_flash_attention_impls

from cogvideox.pretrained.offload.pinned_memory import PinnedBuffer, clear_last_error
from cogvideox.text.encoder import position_buckets
from cogvideox.transformer.acceleration import attention_backends
from cogvideox.transformer.acceleration.attention_backends import attend_with
from cogvideox.transformer.acceleration.float8 import Float8Linear, has_float8_arithmetic
from cogvideox.transformer.attention import StreamLayout, dense_attention, has_varlen_kernel

PACKAGES = (
    "av",
    "beartype",
    "diffusers",
    "flash_attn",
    "flash_attn_interface",
    "hypothesis",
    "torchao",
    "transformers",
)


def measure_machine(run: Run) -> None:
    """Record hardware and versions."""
    machine: dict[str, Any] = {"packages": {name: find_spec(name) is not None for name in PACKAGES}}
    if run.on_gpu:
        properties = torch.cuda.get_device_properties(run.device)
        machine |= {
            "name": properties.name,
            "capability": [properties.major, properties.minor],
            "memory_bytes": properties.total_memory,
            "processors": properties.multi_processor_count,
            "flash_attention": list_flash_attention_impls(),
            "varlen": has_varlen_kernel(torch.device(run.device)),
            "float8": has_float8_arithmetic(torch.device(run.device)),
        }
    run.note(machine=machine, environment=environment(run.device), kernel=platform.release())


@torch.inference_mode()
def measure_conv3d(run: Run) -> None:
    """Measure the VAE's 3x3x3 convolutions in bfloat16 in both memory formats: seconds, FLOP/s and kernels."""
    shapes = [(128, 10, 480, 720), (256, 10, 240, 360), (512, 6, 120, 180)]
    if run.tiny:
        shapes = [(8, 3, 12, 12)]
    for shape in shapes:
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            c, t, h, w = shape
            name = f"{c} channels, {t}x{h}x{w}, {str(layout).removeprefix('torch.')}"

            def convolve(shape: tuple[int, ...] = shape, layout: torch.memory_format = layout) -> Any:
                c, t, h, w = shape
                x = _random(run, 1, *shape).to(memory_format=layout)
                weight = (_random(run, c, c, 3, 3, 3) / c).to(memory_format=layout)
                return _timed(run, lambda: F.conv3d(x, weight), 2.0 * 27 * c * c * (t - 2) * (h - 2) * (w - 2))

            run.figure(name, convolve)


def measure_registration(run: Run) -> None:
    """Check page-locked buffers: driver support, copy speed, and the state after a failed registration."""
    sizes = [(1920, 5760), (7680, 1920), (1921,), (3, 5)] if not run.tiny else [(30, 50), (7,), (3, 5)]
    if not run.on_gpu:
        run.note(skipped="needs a GPU")
        return
    device = torch.device(run.device)
    runtime: Any = torch.cuda.cudart()
    original, statuses = runtime.cudaHostRegister, []

    def register(*args: int) -> int:
        statuses.append(int(original(*args)))
        return statuses[-1]

    runtime.cudaHostRegister = register
    groups = [PinnedBuffer([torch.randn(size) for size in sizes], device) for _ in range(8)]
    runtime.cudaHostRegister = original
    run.note(registered=statuses.count(0), refused=[status for status in statuses if status])
    registered = groups[0].tensors[0]
    pageable = registered.clone()

    def measure_copies() -> dict[str, float]:
        out = torch.empty_like(registered, device=device)
        variants = {
            "registered": lambda: out.copy_(registered, non_blocking=True),
            "pageable": lambda: out.copy_(pageable, non_blocking=True),
        }
        times = interleave(variants, run.options.rounds, warmup=2, device=run.device)
        return {name: registered.nbytes / median(seconds) / 1e9 for name, seconds in times.items()}

    def register_twice() -> dict[str, Any]:
        status = int(original(registered.data_ptr() // 4096 * 4096, 4096, 0))
        clear_last_error(device)
        launched = torch.ones(3, device=device).sum().item() == 3
        return {"status": status, "launches_work_after_it": launched}

    run.figure("copied_gigabytes_per_second", measure_copies)
    run.figure("a_page_registered_twice", register_twice)


def measure_buckets(run: Run) -> None:
    """Count T5's position buckets that would differ if the logarithm were computed on the device."""
    config = {"num_buckets": 32, "max_distance": 128}
    for length in (226, 512):

        def differing(length: int = length) -> dict[str, int]:
            buckets = position_buckets(length, *config.values(), torch.device(run.device))
            assert buckets.device.type == torch.device(run.device).type
            distances = torch.arange(1, length, device=run.device)
            on_device, on_cpu = _logarithmic(distances).cpu(), _logarithmic(distances.cpu())
            return {"distances": length - 1, "differing": int((on_device != on_cpu).sum())}

        run.figure(f"{length} tokens", differing)


def _logarithmic(distance: Tensor) -> Tensor:
    growth = torch.log(distance.float() / 8) / torch.log(torch.tensor(16.0)).item()
    return (growth.clamp(min=0) * 8).long()


@torch.inference_mode()
def measure_float8(run: Run) -> None:
    """Measure the row-wise products of float8 layers at the 5B's widths: speed and error compared to bfloat16."""
    config, size = config_of(run, "5b")
    tokens, width = shape_of(config, size).tokens(config), config.width
    for name, (d_in, d_out) in {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "mlp.out": (4 * width, width),
    }.items():

        def products(d_in: int = d_in, d_out: int = d_out) -> dict[str, Any]:
            layer = torch.nn.Linear(d_in, d_out, device=run.device, dtype=torch.bfloat16)
            x = _random(run, 2, tokens, d_in)
            float8, work = Float8Linear(layer), 2.0 * 2 * tokens * d_in * d_out
            times = {name: _timed(run, lambda f=f: f(x), work) for name, f in (("bfloat16", layer), ("fp8", float8))}
            return times | {"error_l2": relative_l2(float8(x), layer(x).float()), "hardware": float8.has_float8}

        run.figure(name, products)


@torch.inference_mode()
def measure_attention(run: Run) -> None:
    """Select the fastest attention kernel for each model, twice, and measure its distance from the default kernel."""
    for preset in ("5b", "2b"):
        config, size = config_of(run, preset)
        tokens = shape_of(config, size).tokens(config)
        shape = config.num_attention_heads, tokens, 2, torch.bfloat16, torch.device(run.device)

        def choose(shape: tuple[Any, ...] = shape) -> dict[str, Any]:
            selected = []
            for _ in range(2):
                attention_backends._timed.cache_clear()
                selected.append(attention_backends.fastest_backend(*shape))
            heads, tokens, batch = shape[:3]
            q, k, v = (_random(run, batch, tokens, heads, 64) for _ in range(3))
            layout = StreamLayout((0, tokens))
            default, names = dense_attention(q, k, v, layout).float(), selected[0].milliseconds
            errors = {name: relative_l2(attend_with(name)(q, k, v, layout), default) for name in names}
            return {
                "chosen": [str(backend) for backend in selected],
                "milliseconds": [backend.milliseconds for backend in selected],
                "distance_from_default": errors,
            }

        run.figure(preset, choose)


def measure_tests(run: Run) -> None:
    """Run tests/gpu and record the result of each test. Tests that do not run within the time limit are missing."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rsP", "--durations=10"]
    command.append("tests/gpu/test_samplers.py" if run.tiny else "tests/gpu")
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    results: dict[str, list[str]] = {}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
            name, _, rest = line.partition(" ")
            outcome = rest.split(" ", 1)[0].strip()
            if "::" in name and outcome in ("PASSED", "FAILED", "SKIPPED", "ERROR"):
                results.setdefault(outcome.lower(), []).append(name.removeprefix("tests/gpu/"))
                run.notes["tests"] = results
                run.save()
    run.note(pytest_status=tests.returncode, counts={outcome: len(names) for outcome, names in results.items()})


def _random(run: Run, *shape: int) -> Tensor:
    generator = torch.Generator(run.device).manual_seed(run.seed)
    return torch.randn(shape, generator=generator, device=run.device).bfloat16()


def _timed(run: Run, variant: Any, work: float) -> dict[str, Any]:
    times = interleave({"": variant}, run.options.rounds, warmup=2, device=run.device)[""]
    synchronize(run.device)
    fractions = kernels(variant, run.device)
    return {
        "seconds": median(times),
        "tflops_per_second": work / median(times) / 1e12,
        "kernels": fractions["attention"] | fractions["others"],
    }
