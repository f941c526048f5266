"""What the benchmarks share: two programs timed in turn, their memory, where they ran, and the report as JSON.

A report is `{"benchmark", "environment", "what", "rows"}`. A row is one task, done in several ways by equal weights on
equal inputs: `{"task", "reference", "ways": {name: {"seconds", "median", "ratio", "error", ...}}}`. A ratio is the
reference's median over that of the way, so that more than 1 is faster; an error is the largest difference from the
reference's result over the largest of its values, and a row with too large an error is refused instead of reported.
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
sys.path.append(str(ROOT))  # a checkout that is not installed

EXACT = 1e-5  # what float32 is allowed to differ by
LIBRARIES = ("cogvideox", "diffusers", "transformers", "numpy", "triton", "torchao")
SMI = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
_M_MMAP_THRESHOLD = -3

Ways = Mapping[str, Callable[[], object]]
Report = dict[str, Any]
Preset = TypeVar("Preset")


def arguments(doc: str, name: str, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / f"build/benchmarks/{name}.json", help="the report")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"each way is timed so often ({rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"or, from 3 rounds on, so long ({seconds:g})")
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--tiny", action="store_true", help="sizes that take no time and tell nothing, to try it")
    return parser


def start(options: argparse.Namespace) -> None:
    """What the options ask of torch."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32


def chosen(
    parser: argparse.ArgumentParser, presets: Mapping[str, Preset], tiny: Mapping[str, Preset]
) -> tuple[argparse.Namespace, Mapping[str, Preset]]:
    """The options, done to torch, and the presets that they name."""
    parser.add_argument("--preset", nargs="+", choices=presets, default=list(presets), help="default: all")
    options = parser.parse_args()
    start(options)
    return options, tiny if options.tiny else {name: presets[name] for name in options.preset}


def interleave(
    ways: Ways,
    rounds: int,
    *,
    seconds: float = math.inf,
    warmup: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every way in every round: first all of them once, then all again. Once `seconds` are over, and three
    rounds done, no other round begins."""
    for _ in range(warmup):
        for way in ways.values():
            way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - began > seconds:
            break
        for name, way in ways.items():
            wait(device)
            at = clock()
            way()
            wait(device)
            times[name].append(clock() - at)
    return times


def processor_clock() -> float:
    """Seconds of the processor where it does nothing but this, which other programs disturb less, or else the clock."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def row(task: str, times: Mapping[str, list[float]], **facts: Mapping[str, Any]) -> Report:
    """A row of the report; the first way is the reference. `facts` are more columns, each by way."""
    reference = next(iter(times))
    base = statistics.median(times[reference])
    ways: dict[str, Any] = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ways[name] = {"median": median, "min": min(seconds), "ratio": base / median}
        ways[name] |= {fact: by_way[name] for fact, by_way in facts.items() if name in by_way}
        ways[name] |= {"seconds": seconds}
    return {"task": task, "reference": reference, "ways": ways}


def check_equal(task: str, results: Mapping[str, Tensor], tolerance: float = EXACT) -> dict[str, float]:
    """How far each result is from the first one.

    Raises:
        SystemExit: one is too far off: how long that takes says nothing.
    """
    reference = next(iter(results.values())).float()
    errors = {name: relative_error(result.float(), reference) for name, result in results.items()}
    for name, error in errors.items():
        if not error <= tolerance:  # NaN is not
            raise SystemExit(f"{task}: the result of {name} is off by {error:.2g}, more than {tolerance:g}: no ratio")
    return errors


def relative_error(result: Tensor, reference: Tensor) -> float:
    """The largest difference over the largest value."""
    if result.shape != reference.shape:
        raise SystemExit(f"a result is {list(result.shape)}, where the reference has {list(reference.shape)}")
    return ((result - reference).abs().max() / reference.abs().max()).item()


def psnr(frames: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """In dB, of frames in 0..1."""
    error = float(np.mean((frames.astype(np.float64) - reference) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def peak_extra_bytes(way: Callable[[], object], device: str = "cpu") -> int:
    """The most memory that a call holds at once, beyond what there was before. On a CPU, as Linux counts it: from here
    on every allocation of 64 KiB goes back to the system when it is freed, so time nothing afterwards."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return torch.cuda.max_memory_allocated() - before
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.malloc_trim(0)
    forget_peak()
    before = resident("VmRSS")
    way()
    return resident("VmHWM") - before


def add_peaks(one: Report, ways: Ways) -> None:
    """Adds what each way takes to the row of their times."""
    for who, way in ways.items():
        one["ways"][who]["peak_extra_bytes"] = peak_extra_bytes(way)


def forget_peak() -> None:
    """The highest resident size so far no longer counts."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(what: str) -> int:
    """A resident size of this process in bytes, as Linux counts it: VmRSS now, VmHWM at the highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise OSError(f"this system does not tell {what}")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Where and with what a benchmark ran."""
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version for name in LIBRARIES if (version := _version(name))},
    }
    if device.startswith("cuda"):
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "gpu": gpu_state()}
    return found


def gpu_state() -> dict[str, str]:
    """Clocks (MHz), power (W) and temperature now, as `nvidia-smi` tells; nothing where it is not."""
    told = _output("nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits")
    return dict(zip(SMI, (value.strip() for value in told.splitlines()[0].split(",")))) if told else {}


def processor_name() -> str:
    """The processor, as Linux names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def finish(name: str, what: Mapping[str, Any], rows: list[Report], out: Path, device: str = "cpu") -> Report:
    """The report, written and printed."""
    report = {"benchmark": name, "environment": environment(device), "what": dict(what), "rows": rows}
    write_json(out, report)
    for one in rows:
        print_row(one)
    print(f"{out}")
    return report


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def print_row(one: Report) -> None:
    """A row of a report for people."""
    print(one["task"])
    for name, way in one["ways"].items():
        if "median" not in way:
            print(f"  {name:32} {way.get('failed', '')}")
            continue
        told = [f"{way['median']:10.4f} s", f"{way['ratio']:6.2f}x"] if "ratio" in way else [f"{way['median']:10.4f} s"]
        told += [f"{fact} {_short(fact, value)}" for fact, value in way.items() if fact not in _SHOWN]
        print(f"  {name:32} " + "  ".join(told))


_SHOWN = ("median", "min", "ratio", "seconds")


def _short(fact: str, value: object) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value / 2**20:.0f} MiB" if fact.endswith("bytes") else f"{value:.3g}"


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
