"""Shared code of the benchmarks: interleaved timing, peak memory, the environment, and the JSON report.

A report is `{"benchmark", "environment", "settings", "rows"}`. A row compares several variants (implementations) of a
task, with equal weights and inputs: `{"task", "reference", "variants": {name: {"seconds", "median", "ratio", ...}}}`.
The ratio is the median of the reference divided by the median of the variant, so above 1 is faster. `error` is the
maximum difference from the result of the reference, divided by its maximum value; a benchmark fails if it is too large.
"""

import argparse
import ctypes
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # for a checkout that is not installed

EXACT = 1e-5  # largest relative error in float32
LIBRARIES = ("cogvideox", "diffusers", "transformers", "numpy", "triton", "torchao")
SMI = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
_M_MMAP_THRESHOLD = -3

Variants = Mapping[str, Callable[[], object]]
Report = dict[str, Any]
Preset = TypeVar("Preset")


def option_parser(doc: str, name: str, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the options shared by all benchmarks."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / f"build/benchmarks/{name}.json", help="path of the report")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"number of timings per variant ({rounds})")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"no new round after this time, but at least 3 ({seconds:g})"
    )
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a smoke test")
    return parser


def apply_options(options: argparse.Namespace) -> None:
    """Apply the options to torch."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # exact float32


def parse_options(
    parser: argparse.ArgumentParser, presets: Mapping[str, Preset], tiny: Mapping[str, Preset]
) -> tuple[argparse.Namespace, Mapping[str, Preset]]:
    """Parse and apply the options. Return them and the selected presets."""
    parser.add_argument("--preset", nargs="+", choices=presets, default=list(presets), help="default: all")
    options = parser.parse_args()
    apply_options(options)
    return options, tiny if options.tiny else {name: presets[name] for name in options.preset}


def interleave(
    variants: Variants,
    rounds: int,
    *,
    seconds: float = math.inf,
    warmup: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time all variants once per round, one after the other. Return the seconds of each variant in each round.

    No new round starts after `seconds`, but at least three rounds are run.
    """
    for _ in range(warmup):
        for variant in variants.values():
            variant()
    times: dict[str, list[float]] = {name: [] for name in variants}
    start_time = time.perf_counter()
    for completed in range(rounds):
        if completed >= 3 and time.perf_counter() - start_time > seconds:
            break
        for name, variant in variants.items():
            synchronize(device)
            started = clock()
            variant()
            synchronize(device)
            times[name].append(clock() - started)
    return times


def cpu_clock() -> float:
    """Return CPU time, which other programs disturb less, with one thread and no GPU; otherwise wall-clock time."""
    is_single_threaded = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if is_single_threaded else time.perf_counter()


def synchronize(device: str) -> None:
    """Wait until the device has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def make_row(task: str, times: Mapping[str, list[float]], **columns: Mapping[str, Any]) -> Report:
    """Make a row of the report. The first variant is the reference; `columns` are additional values by variant."""
    reference = next(iter(times))
    reference_median = statistics.median(times[reference])
    variants: dict[str, Any] = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        variants[name] = {"median": median, "min": min(seconds), "ratio": reference_median / median}
        variants[name] |= {column: values[name] for column, values in columns.items() if name in values}
        variants[name] |= {"seconds": seconds}
    return {"task": task, "reference": reference, "variants": variants}


def check_equal(task: str, results: Mapping[str, Tensor], tolerance: float = EXACT) -> dict[str, float]:
    """Return the error of each result relative to the first.

    Raises:
        SystemExit: an error exceeds the tolerance, so timings cannot be compared.
    """
    reference = next(iter(results.values())).float()
    errors = {name: relative_error(result.float(), reference) for name, result in results.items()}
    for name, error in errors.items():
        if not error <= tolerance:  # also catches NaN
            raise SystemExit(f"{task}: the result of {name} is off by {error:.2g}, more than {tolerance:g}")
    return errors


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Return the maximum difference divided by the maximum value of the reference."""
    if result.shape != reference.shape:
        raise SystemExit(f"a result has shape {list(result.shape)}, but the reference has {list(reference.shape)}")
    return ((result - reference).abs().max() / reference.abs().max()).item()


def psnr(frames: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Return the PSNR in dB of frames in 0..1."""
    error = float(np.mean((frames.astype(np.float64) - reference) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def peak_extra_bytes(variant: Callable[[], object], device: str = "cpu") -> int:
    """Measure the peak memory of a call, in addition to the memory allocated before it.

    On CPUs this is the resident set size (Linux only). It makes the allocator return freed allocations above 64 KiB to
    the system from then on, which slows everything down, so measure times first.
    """
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        variant()
        return torch.cuda.max_memory_allocated() - before
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.malloc_trim(0)
    reset_peak()
    before = resident_bytes("VmRSS")
    variant()
    return resident_bytes("VmHWM") - before


def add_peaks(row: Report, variants: Variants) -> None:
    """Add the peak memory of each variant to its row."""
    for name, variant in variants.items():
        row["variants"][name]["peak_extra_bytes"] = peak_extra_bytes(variant)


def reset_peak() -> None:
    """Reset the peak resident set size of this process."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_bytes(field: str) -> int:
    """Return the resident set size of this process in bytes (Linux): VmRSS is the current size, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"{field} is not available on this system")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return hardware and software versions, for the report."""
    entries = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version for name in LIBRARIES if (version := _version(name))},
    }
    if device.startswith("cuda"):
        entries |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "gpu": gpu_state()}
    return entries


def gpu_state() -> dict[str, str]:
    """Return the current clocks (MHz), power (W) and temperature from `nvidia-smi`; empty without it."""
    output = _output("nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits")
    return dict(zip(SMI, (value.strip() for value in output.splitlines()[0].split(",")))) if output else {}


def cpu_name() -> str:
    """Return the name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def write_report(name: str, settings: Mapping[str, Any], rows: list[Report], out: Path, device: str = "cpu") -> Report:
    """Write and print the report."""
    report = {"benchmark": name, "environment": environment(device), "settings": dict(settings), "rows": rows}
    write_json(out, report)
    for row in rows:
        print_row(row)
    print(out)
    return report


def write_json(file: Path, content: object) -> None:
    """Write JSON to a temporary file and rename it, so that an interruption keeps the old file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def print_row(row: Report) -> None:
    """Print a row as text."""
    print(row["task"])
    for name, variant in row["variants"].items():
        if "median" not in variant:
            print(f"  {name:32} {variant.get('failed', '')}")
            continue
        columns = (
            [f"{variant['median']:10.4f} s", f"{variant['ratio']:6.2f}x"]
            if "ratio" in variant
            else [f"{variant['median']:10.4f} s"]
        )
        columns += [f"{column} {_format(column, value)}" for column, value in variant.items() if column not in _TIMES]
        print(f"  {name:32} " + "  ".join(columns))


_TIMES = ("median", "min", "ratio", "seconds")


def _format(column: str, value: object) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value / 2**20:.0f} MiB" if column.endswith("bytes") else f"{value:.3g}"


def _version(library: str) -> str | None:
    if library == "cogvideox":
        from cogvideox.version import __version__

        return __version__
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
