"""Hardware properties for memory planning: free memory and approximate speed. Does not import torch at import time.

Rates are estimates. GPU rates are based on published generation times of these models, and are at most half of the
values in data sheets; the rate of the CPU is measured for 0.1 s.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

TERA = 1e12

DISK_BANDWIDTH = 1.0e9
"""Read bandwidth of an average SSD without the page cache, in bytes per second."""

CUDA_CONTEXT = 700 * 2**20
"""GPU memory in bytes that the CUDA context and the display use."""

_NO_LIMIT = 2**60
"""Minimum value that means no limit; cgroup v1 reports a number near 2**63."""


@dataclass(frozen=True)
class Rates:
    """Compute and transfer rates of a device.

    Attributes:
        linear, attention, convolution: FLOP/s.
        transfer: bytes per second from host memory to the device; on a CPU, of the cast to float32.
        peak: dense bfloat16 FLOP/s according to the data sheet; None if unknown.
    """

    linear: float
    attention: float
    convolution: float
    transfer: float
    peak: float | None = None


# Rates in bfloat16 or float16 without compilation. The first key that occurs in the device's name, not followed by a
# digit, applies.
GPUS: dict[str, Rates] = {
    "B200": Rates(900 * TERA, 500 * TERA, 400 * TERA, 50e9, 2250 * TERA),
    "GH200": Rates(450 * TERA, 300 * TERA, 200 * TERA, 100e9, 989 * TERA),
    "H200": Rates(450 * TERA, 300 * TERA, 200 * TERA, 45e9, 989 * TERA),
    "H100": Rates(450 * TERA, 300 * TERA, 200 * TERA, 45e9, 989 * TERA),
    "A100": Rates(200 * TERA, 120 * TERA, 80 * TERA, 20e9, 312 * TERA),
    "L40S": Rates(130 * TERA, 85 * TERA, 50 * TERA, 20e9, 362 * TERA),
    "L40": Rates(130 * TERA, 85 * TERA, 50 * TERA, 20e9, 181 * TERA),
    "RTX 5090": Rates(150 * TERA, 100 * TERA, 60 * TERA, 40e9, 209.5 * TERA),
    "RTX 4090": Rates(120 * TERA, 80 * TERA, 50 * TERA, 20e9, 165.2 * TERA),
    "RTX 4080": Rates(75 * TERA, 50 * TERA, 30 * TERA, 20e9, 97.5 * TERA),
    "RTX 3090": Rates(50 * TERA, 35 * TERA, 20 * TERA, 20e9, 71 * TERA),
    "A10": Rates(60 * TERA, 40 * TERA, 25 * TERA, 20e9, 125 * TERA),
    "V100": Rates(70 * TERA, 30 * TERA, 30 * TERA, 10e9, 125 * TERA),
    "T4": Rates(22 * TERA, 12 * TERA, 8 * TERA, 8e9, 65 * TERA),
}
GPU_MEMORY = {
    "B200": 180,
    "GH200": 96,
    "H200": 141,
    "H100": 80,
    "L40S": 48,
    "L40": 48,
    "RTX 5090": 32,
    "RTX 4090": 24,
    "RTX 4080": 16,
    "RTX 3090": 24,
    "A10": 24,
    "T4": 16,
}
"""Memory of GPUs in GiB, except of those that are sold with several sizes."""
UNKNOWN_GPU = Rates(20 * TERA, 13 * TERA, 8 * TERA, 10e9)
UNKNOWN_CPU = Rates(0.03 * TERA, 0.02 * TERA, 0.03 * TERA, 1.5e9)


@dataclass(frozen=True)
class Hardware:
    """A device and its host's memory.

    Attributes:
        device_type: "cpu", "cuda", ...
        name: name of the device, for messages.
        free_bytes: free device memory.
        host_free_bytes: free host memory; equals `free_bytes` on a CPU.
        dtype: compute dtype of the networks.
    """

    device_type: str
    name: str
    free_bytes: int
    host_free_bytes: int
    dtype: str
    rates: Rates


def detect_hardware(device: "torch.device", dtype: str, *, measured: bool = True) -> Hardware:
    """Detect the hardware of this machine. Without `measured`, low rates are assumed for a CPU."""
    import torch

    _, host_free = main_memory()
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        # Include memory cached by torch's allocator, which it reuses.
        free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        name = torch.cuda.get_device_name(device)
        return Hardware("cuda", name, free_bytes, host_free, dtype, gpu_rates(name, dtype))
    rates = _measure_cpu() if measured else UNKNOWN_CPU
    return Hardware(device.type, device.type.upper(), host_free, host_free, dtype, rates)


def hypothetical_gpu(
    name: str, gigabytes: float | int, dtype: str = "bfloat16", *, host_gigabytes: float | int = 64
) -> Hardware:
    """Return the properties of a GPU that need not be installed, with all of its memory (GiB) free."""
    free_bytes = int(gigabytes * 2**30) - CUDA_CONTEXT
    return Hardware("cuda", name, free_bytes, int(host_gigabytes * 2**30), dtype, gpu_rates(name, dtype))


def gpu_rates(name: str, dtype: str) -> Rates:
    """Return the rates of a GPU by name; low rates if it is unknown. float32 has an eighth of the 16-bit rates."""
    rates = _of_gpu(name, GPUS) or UNKNOWN_GPU
    if dtype != "float32":
        return rates
    return Rates(rates.linear / 8, rates.attention / 8, rates.convolution / 8, rates.transfer, rates.peak)


def gpu_memory(name: str) -> int | None:
    """Return the memory of a GPU in GiB by name; None if it is unknown or sold with several sizes."""
    return _of_gpu(name, GPU_MEMORY)


def _of_gpu(name: str, values: Mapping[str, T]) -> T | None:
    return next((value for key, value in values.items() if re.search(rf"{key}(?!\d)", name, re.I)), None)


def main_memory() -> tuple[int, int]:
    """Return total and free host memory in bytes, within the limits of the container."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return total, free
    for limit, free_in_group in cgroup_limits(groups, Path("/sys/fs/cgroup")):
        total, free = min(total, limit), min(free, free_in_group)
    return total, free


def cgroup_limits(groups: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Yield the memory limit and the free bytes of each control group of a process, where there is a limit.

    Page cache is reclaimable, so it counts as free.

    Args:
        groups: content of the process's `/proc/*/cgroup`. In a container it may contain paths of the host.
        folder: mount point of cgroup v1 or v2.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit_file, used_file, cache_key = folder, "memory.max", "memory.current", "inactive_file "
        elif "memory" in controllers.split(","):
            root, limit_file, used_file = folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache_key = "total_inactive_file "
        else:
            continue
        innermost = root / path.strip("/")
        for group in (innermost, *innermost.parents):
            limit = _read_number(group / limit_file)
            if limit is not None and limit < _NO_LIMIT:
                used = (_read_number(group / used_file) or 0) - (_read_number(group / "memory.stat", cache_key) or 0)
                yield limit, max(limit - used, 0)
            if group == root:
                break


def _read_number(file: Path, prefix: str = "") -> int | None:
    """Read the integer in a file, or in its line that starts with `prefix`; return None if there is none."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    numbers = [line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix)]
    return int(numbers[0]) if numbers and numbers[0].isdigit() else None


def _measure_cpu() -> Rates:
    """Measure float32 matrix products for 0.1 s and derive the CPU's rates."""
    import torch

    matrix = torch.ones(512, 512)
    torch.mm(matrix, matrix)
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < 0.1:
        torch.mm(matrix, matrix)
        count += 1
    rate = 2 * 512**3 * count / seconds
    return Rates(0.8 * rate, 0.5 * rate, 0.8 * rate, UNKNOWN_CPU.transfer)
