"""Hardware properties for memory planning: free memory and approximate speed.

Rates are estimates: those of GPUs come from a table (`gpus.py`), those of the CPU are measured once and cached
(`hardware.cpu_probe`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.hardware.gpus import Rates, gpu_rates

if TYPE_CHECKING:
    import torch

    from cogvideox.hardware.cpu_probe import CPUProbe

DISK_BANDWIDTH = 1.0e9
"""Read bandwidth of an average SSD without the page cache, in bytes per second."""

CUDA_CONTEXT = 700 * 2**20
"""GPU memory in bytes that the CUDA context and the display use."""

_NO_LIMIT = 2**60
"""Minimum value that means no limit; cgroup v1 reports a number near 2**63."""


UNKNOWN_CPU = Rates(0.03e12, 0.02e12, 0.03e12, 1.5e9)


@dataclass(frozen=True)
class Hardware:
    """A device and its host's memory.

    Attributes:
        device_type: "cpu", "cuda", ...
        name: name of the device, for messages.
        free_bytes: free device memory.
        host_free_bytes: free host memory; equals `free_bytes` on a CPU.
        dtype: compute dtype of the networks.
        rates: rates of the whole device; those of a CPU are measured with `num_threads` threads.
        num_threads: threads of PyTorch on a CPU; 1 on other devices.
    """

    device_type: str
    name: str
    free_bytes: int
    host_free_bytes: int
    dtype: str
    rates: Rates
    num_threads: int = 1


def detect_hardware(device: "torch.device", dtype: str, *, measured: bool = True) -> Hardware:
    """Detect the hardware of this machine. Without `measured`, low rates are assumed for a CPU that was not probed."""
    import torch

    from cogvideox.device import free_device_memory

    _, host_free = main_memory()
    free_bytes = free_device_memory(device)
    if free_bytes is not None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return Hardware("cuda", name, free_bytes, host_free, dtype, gpu_rates(name, dtype))
    if free_bytes is not None:
        if device.type == "mps":  # its memory is part of main memory
            free_bytes = min(free_bytes, host_free)
        return Hardware(device.type, device.type.upper(), free_bytes, host_free, dtype, gpu_rates("", dtype))
    rates, num_threads = UNKNOWN_CPU, 1
    if device.type == "cpu":
        from cogvideox.hardware.cpu_probe import cpu_probe, known_probe

        num_threads = torch.get_num_threads()
        probe = cpu_probe() if measured else known_probe()
        rates = UNKNOWN_CPU if probe is None else cpu_rates(dtype, probe)
    return Hardware(device.type, device.type.upper(), host_free, host_free, dtype, rates, num_threads)


def hypothetical_gpu(
    name: str, gibibytes: float | int, dtype: str = "bfloat16", *, host_gibibytes: float | int = 64
) -> Hardware:
    """Return the properties of a GPU that need not be installed, with all of its memory free."""
    free_bytes = int(gibibytes * 2**30) - CUDA_CONTEXT
    return Hardware("cuda", name, free_bytes, int(host_gibibytes * 2**30), dtype, gpu_rates(name, dtype))


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


def cpu_rates(dtype: str, probe: "CPUProbe") -> Rates:
    """Return the rates of networks on a CPU, somewhat below those of single kernels."""
    kernels = probe.rates.get(dtype)
    if kernels is None:  # no fast kernels: at best a tenth of the speed of float32
        slow = probe.rates["float32"]
        rates = (slow.linear / 10, slow.best_attention, slow.convolution / 20)
    else:
        rates = (kernels.linear, kernels.best_attention, kernels.convolution)
    return Rates(0.85 * rates[0], 0.85 * rates[1], 0.7 * rates[2], UNKNOWN_CPU.transfer)
