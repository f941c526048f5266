"""The hardware that a memory plan depends on: free memory and approximate speed. Imports no torch at import time.

Rates are estimates. Those of GPUs are half of the data sheet or less, from published times of these models; that of a
CPU is measured for 0.1 s.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TERA = 1e12

DISK_BANDWIDTH = 1.0e9
"""Bytes per second of an average SSD, without the page cache."""

CUDA_CONTEXT = 700 * 2**20
"""Bytes of GPU memory used by CUDA itself and the display."""

_NO_LIMIT = 2**60
"""Control groups v1 report a number near 2**63 for no limit."""


@dataclass(frozen=True)
class Rates:
    """Compute and transfer rates of a device.

    Attributes:
        linear, attention, convolution: FLOP/s.
        transfer: bytes per second from main memory to the device; on a CPU, of the cast to float32.
        peak: FLOP/s of dense bfloat16 matrix products in the data sheet; None if unknown.
    """

    linear: float
    attention: float
    convolution: float
    transfer: float
    peak: float | None = None


# For bfloat16 or float16 without compilation. The first key that occurs in the device's name, not followed by a digit.
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
UNKNOWN_GPU = Rates(20 * TERA, 13 * TERA, 8 * TERA, 10e9)
UNKNOWN_CPU = Rates(0.03 * TERA, 0.02 * TERA, 0.03 * TERA, 1.5e9)


@dataclass(frozen=True)
class Hardware:
    """A device and the memory of its machine.

    Attributes:
        device_type: "cpu", "cuda", ...
        name: of the device, for messages.
        free_bytes: free memory of the device.
        host_free_bytes: free main memory; the same on a CPU.
        dtype: dtype in which networks compute.
    """

    device_type: str
    name: str
    free_bytes: int
    host_free_bytes: int
    dtype: str
    rates: Rates


def detect_hardware(device: "torch.device", dtype: str, *, measured: bool = True) -> Hardware:
    """The hardware of this machine. Unless `measured`, a CPU gets the rates of a slow one."""
    import torch

    _, host_free = main_memory()
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        # Plus memory that torch has cached and will reuse.
        free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        name = torch.cuda.get_device_name(device)
        return Hardware("cuda", name, free_bytes, host_free, dtype, gpu_rates(name, dtype))
    rates = _measure_cpu() if measured else UNKNOWN_CPU
    return Hardware(device.type, device.type.upper(), host_free, host_free, dtype, rates)


def hypothetical_gpu(
    name: str, gigabytes: float | int, dtype: str = "bfloat16", *, host_gigabytes: float | int = 64
) -> Hardware:
    """A GPU that may be absent, with all of its memory (GiB) free."""
    free_bytes = int(gigabytes * 2**30) - CUDA_CONTEXT
    return Hardware("cuda", name, free_bytes, int(host_gigabytes * 2**30), dtype, gpu_rates(name, dtype))


def gpu_rates(name: str, dtype: str) -> Rates:
    """The rates of a GPU by name, or those of a small GPU if it is unknown; an eighth of them for float32."""
    known = next((rates for part, rates in GPUS.items() if re.search(rf"{part}(?!\d)", name, re.I)), UNKNOWN_GPU)
    if dtype != "float32":
        return known
    return Rates(known.linear / 8, known.attention / 8, known.convolution / 8, known.transfer, known.peak)


def main_memory() -> tuple[int, int]:
    """Total and free bytes of main memory, within the limits of the container if there is one."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return total, free
    for limit, left in cgroup_limits(groups, Path("/sys/fs/cgroup")):
        total, free = min(total, limit), min(free, left)
    return total, free


def cgroup_limits(groups: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Yield the memory limit and the free bytes of every control group of a process that limits memory.

    Page cache is reclaimable, so it counts as free.

    Args:
        groups: content of the process's `/proc/*/cgroup`. In a container its paths may be those of the host.
        folder: mount point of the control groups, v1 or v2.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit_file, used_file, cache = folder, "memory.max", "memory.current", "inactive_file "
        elif "memory" in controllers.split(","):
            root, limit_file, used_file = folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file "
        else:
            continue
        innermost = root / path.strip("/")
        for group in (innermost, *innermost.parents):
            limit = _read_number(group / limit_file)
            if limit is not None and limit < _NO_LIMIT:
                used = (_read_number(group / used_file) or 0) - (_read_number(group / "memory.stat", cache) or 0)
                yield limit, max(limit - used, 0)
            if group == root:
                break


def _read_number(file: Path, prefix: str = "") -> int | None:
    """The number in a file, or in its line with a prefix; None if there is none."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    texts = [line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix)]
    return int(texts[0]) if texts and texts[0].isdigit() else None


def _measure_cpu() -> Rates:
    """Rates from float32 matrix products, repeated for 0.1 s."""
    import torch

    matrix = torch.ones(512, 512)
    torch.mm(matrix, matrix)
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < 0.1:
        torch.mm(matrix, matrix)
        count += 1
    rate = 2 * 512**3 * count / seconds
    return Rates(0.8 * rate, 0.5 * rate, 0.8 * rate, UNKNOWN_CPU.transfer)
