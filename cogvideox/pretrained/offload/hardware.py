"""What a memory plan has to know of the machine: how much is free, and about how fast it is.

Rates are estimates. Those of GPUs are half or less of what data sheets promise, as published times of these models come
out at; that of a CPU is measured for a tenth of a second. Imports no torch until a machine is looked at.
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
"""Bytes a second from a disk that is neither the best nor in the cache already."""

CUDA_CONTEXT = 700 * 2**20
"""What CUDA itself and the screen take of a GPU's memory."""

_NO_LIMIT = 2**60
"""Version 1 of control groups says a number near 2**63 where there is none."""


@dataclass(frozen=True)
class Rates:
    """Operations a second in linear layers, attention and convolutions, and bytes a second from memory to the device
    (on a CPU, from the type of the file to float32).

    peak: operations a second that the data sheet promises of products in bfloat16 without sparsity, where it is known.
    """

    linear: float
    attention: float
    convolution: float
    transfer: float
    peak: float | None = None


# Of bfloat16 or float16 without compilation. The first name that the device's name contains, with no digit after it.
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
    """Where a model is to run.

    kind: "cpu" or "cuda".
    name: of the device, for people.
    free: bytes that are free on the device; on a CPU, of main memory.
    host_free: bytes of main memory that are free; on a CPU the same.
    dtype: what the networks compute in.
    """

    device_type: str
    name: str
    free_bytes: int
    host_free_bytes: int
    dtype: str
    rates: Rates


def hypothetical_gpu(
    name: str, gigabytes: float | int, dtype: str = "bfloat16", *, host_gigabytes: float | int = 64
) -> Hardware:
    """A machine that need not be here: a GPU of so many GiB on which nothing else runs."""
    free_bytes = int(gigabytes * 2**30) - CUDA_CONTEXT
    return Hardware("cuda", name, free_bytes, int(host_gigabytes * 2**30), dtype, gpu_rates(name, dtype))


def gpu_rates(name: str, dtype: str) -> Rates:
    """By name; of one that is not known, those of a small one. float32 is taken to be eight times slower."""
    known = next((rates for part, rates in GPUS.items() if re.search(rf"{part}(?!\d)", name, re.I)), UNKNOWN_GPU)
    if dtype != "float32":
        return known
    return Rates(known.linear / 8, known.attention / 8, known.convolution / 8, known.transfer, known.peak)


def detect_hardware(device: "torch.device", dtype: str, *, measured: bool = True) -> Hardware:
    """The machine that this is. Unless `measured`, the speed of a CPU is taken to be that of a slow one."""
    import torch

    host = free_memory()
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself without using it, it uses again.
        free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        name = torch.cuda.get_device_name(device)
        return Hardware("cuda", name, free_bytes, host, dtype, gpu_rates(name, dtype))
    return Hardware(device.type, device.type.upper(), host, host, dtype, _probe() if measured else UNKNOWN_CPU)


def free_memory() -> int:
    """Bytes of main memory that are free, within the limits of the container, if it has any."""
    return main_memory()[1]


def main_memory() -> tuple[int, int]:
    """Bytes of main memory, and how many of them are free, within the limits of the container, if it has any."""
    import psutil

    memory = psutil.virtual_memory()
    total, free_bytes = memory.total, memory.available
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return total, free_bytes
    for limit, room in cgroup_limits(groups, Path("/sys/fs/cgroup")):
        total, free_bytes = min(total, limit), min(free_bytes, room)
    return total, free_bytes


def cgroup_limits(groups: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Of every control group around a process that limits memory: bytes in all, and those that are left.

    What files that were read take of it is given back when it is needed, and counts as left.

    Args:
        groups: a process's `/proc/*/cgroup`. Inside of a container the paths in it may be those outside.
        folder: where the groups are, of either version.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            home, limit, used, idle = folder, "memory.max", "memory.current", "inactive_file "
        elif "memory" in controllers.split(","):
            home, limit, used = folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file "
        else:
            continue
        inner = home / path.strip("/")
        for group in (inner, *inner.parents):
            most = _number_in(group / limit)
            if most is not None and most < _NO_LIMIT:
                taken = (_number_in(group / used) or 0) - (_number_in(group / "memory.stat", idle) or 0)
                yield most, max(most - taken, 0)
            if group == home:
                break


def _number_in(file: Path, name: str = "") -> int | None:
    """The number of a file, or of its line that begins with a name."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    texts = [line.removeprefix(name).strip() for line in lines if line.startswith(name)]
    return int(texts[0]) if texts and texts[0].isdigit() else None


def _probe() -> Rates:
    """A matrix product in float32, again and again for a tenth of a second."""
    import torch

    matrix = torch.ones(512, 512)
    torch.mm(matrix, matrix)
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < 0.1:
        torch.mm(matrix, matrix)
        count += 1
    rate = 2 * 512**3 * count / seconds
    return Rates(0.8 * rate, 0.5 * rate, 0.8 * rate, UNKNOWN_CPU.transfer)
