"""Speed of the CPU at hand by dtype: matrix products, convolutions and attention, measured once and cached.

CPUs differ too much for a table: bfloat16 is faster than float32 with AMX or AVX512-BF16, and slower without either. So
`cpu_probe` measures for 0.2 s, and stores the result in the user's cache folder under the CPU, the version of PyTorch
and the number of threads. Each rate is that of the fastest of several runs, in which the dtypes alternate, so that
other programs that run for a moment do not distort it. If the two fastest runs of a kernel differ by more than 10 %,
rounds are repeated until 2 s have passed; if they still differ, the result is used in this process but not stored. The
environment variable `COGVIDEOX_CACHE` changes the folder.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.atomic_io import write_text
from cogvideox.hardware.blocked_attention import blocked_attention
from cogvideox.hardware.onednn import IS_X86, ONEDNN_DTYPES, onednn_linear

VERSION = 2
"""Version of the measurement; cached results of other versions are not used."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ROUNDS = 4
"""Minimum number of measurements of each kernel."""
_SECONDS = 0.2
"""Measurements are repeated for this time, so that at least one of each kernel is undisturbed on a busy machine."""
_MAX_SECONDS = 2.0
"""After this time and `_ROUNDS` rounds, measurements stop even if the fastest two of a kernel do not agree."""
_AGREEMENT = 1.1
"""Maximum ratio of the two shortest times of a kernel that agree."""


@dataclass(frozen=True)
class KernelRates:
    """FLOP/s of one dtype: linear layers, 3x3x3 convolutions, PyTorch's attention, and `blocked_attention`."""

    linear: float
    convolution: float
    attention: float
    blocked_attention: float

    @property
    def best_attention(self) -> float:
        """The rate of the faster kind of attention."""
        return max(self.attention, self.blocked_attention)

    @property
    def prefers_blocks(self) -> bool:
        """Whether `blocked_attention` is clearly faster than PyTorch's attention."""
        return self.blocked_attention > 1.1 * self.attention


@dataclass(frozen=True)
class CPUProbe:
    """The measured rates of this CPU, by name of the dtype. Dtypes without fast kernels are missing.

    `is_steady` is whether the two fastest runs of every kernel agreed. Other results are not stored.
    """

    cpu: str
    rates: dict[str, KernelRates]
    is_steady: bool = True

    def supports(self, dtype: str) -> bool:
        """Return whether linear layers are at least as fast in this dtype as in float32."""
        return dtype in self.rates and self.rates[dtype].linear >= self.rates["float32"].linear

    def __str__(self) -> str:
        """Summarize the rates in GFLOP/s."""
        parts = [
            f"{name} {rates.linear / 1e9:.0f} / {rates.convolution / 1e9:.0f} / {rates.best_attention / 1e9:.0f}"
            for name, rates in self.rates.items()
        ]
        missing = "" if "bfloat16" in self.rates else "; no fast bfloat16"
        return f"{', '.join(parts)} GFLOP/s (linear / convolution / attention){missing}"


_probes: dict[int, CPUProbe] = {}
"""Results of this process by number of threads."""
_fixed: ContextVar[CPUProbe | None] = ContextVar("fixed CPU probe", default=None)


@contextmanager
def fixed_probe(probe: CPUProbe) -> Iterator[None]:
    """Use this result instead of a measurement within the context."""
    token = _fixed.set(probe)
    try:
        yield
    finally:
        _fixed.reset(token)


def cpu_probe() -> CPUProbe:
    """Return the rates of this CPU: from this process, from the cache file, or measured now."""
    return known_probe() or _measure_and_store(torch.get_num_threads())


def known_probe() -> CPUProbe | None:
    """Return the rates of this CPU if they have been measured before, in this process or for the cache file."""
    num_threads = torch.get_num_threads()
    if probe := _fixed.get() or _probes.get(num_threads):
        return probe
    if probe := _read(cache_file(num_threads)):
        _probes[num_threads] = probe
    return probe


def _measure_and_store(num_threads: int) -> CPUProbe:
    probe = _probes[num_threads] = measure()
    if probe.is_steady:
        file = cache_file(num_threads)
        with suppress(Exception):  # for example a read-only home folder: measured again in the next process
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(asdict(probe), indent=2) + "\n")
    return probe


def cache_file(num_threads: int) -> Path:
    """Return the path of the cached result for this CPU, version of PyTorch and number of threads."""
    if "COGVIDEOX_CACHE" in os.environ:
        root = Path(os.environ["COGVIDEOX_CACHE"])
    elif os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library/Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name, flags = cpu_identity()
    key = json.dumps([VERSION, name, flags, torch.__version__, num_threads])
    return root / "cogvideox" / f"cpu-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


@lru_cache
def cpu_identity() -> tuple[str, str]:
    """Return the name of the CPU and its instruction sets."""
    import platform

    lines: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            lines.setdefault(key.strip(), value.strip())
    name = lines.get("model name") or platform.processor() or platform.machine()
    return name, lines.get("flags", torch.backends.cpu.get_cpu_capability())


def _read(file: Path) -> CPUProbe | None:
    """Read a cached result; None if it is missing or damaged."""
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rates = {name: KernelRates(**kernels) for name, kernels in values["rates"].items()}
        is_valid = all(rate > 0 for kernels in rates.values() for rate in asdict(kernels).values())
        return CPUProbe(str(values["cpu"]), rates) if is_valid and "float32" in rates else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def cpu_clock() -> float:
    """Return CPU time with one thread, which does not include the time of other programs; otherwise wall-clock time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@torch.inference_mode()
def measure() -> CPUProbe:
    """Measure the rates of float32 and of the 16-bit dtypes that oneDNN supports."""
    names = [name for name, dtype in DTYPES.items() if name == "float32" or (IS_X86 and dtype in ONEDNN_DTYPES)]
    kernels = {name: _kernels(DTYPES[name]) for name in names}
    # the two shortest times of each kernel
    seconds = {name: {kernel: [float("inf")] * 2 for kernel in kernels[name]} for name in names}
    # After a large tensor has been freed, as in every network, glibc keeps the memory of smaller ones.
    torch.empty(2**22)
    is_steady, begin = False, time.perf_counter()
    for attempt in count():
        is_steady = all(b <= _AGREEMENT * a for times in seconds.values() for a, b in times.values())
        if attempt > _ROUNDS and time.perf_counter() - begin > (_SECONDS if is_steady else _MAX_SECONDS):
            break
        for name in names:
            for kernel, (_, call) in kernels[name].items():
                start = cpu_clock()
                call()
                if attempt:  # the first call compiles the kernel
                    seconds[name][kernel] = sorted([*seconds[name][kernel], cpu_clock() - start])[:2]
    rates = {
        name: KernelRates(**{kernel: flops / seconds[name][kernel][0] for kernel, (flops, _) in kernels[name].items()})
        for name in names
    }
    return CPUProbe(cpu_identity()[0], rates, is_steady)


def _kernels(dtype: torch.dtype) -> dict[str, tuple[float, Callable[[], Tensor]]]:
    """Return FLOPs and call of each kernel, with sizes that take a few milliseconds."""
    rows, width, channels, heads, tokens = 512, 768, 64, 4, 512
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    x, weight, bias = random(rows, width), random(width, width), random(width)
    clip = random(1, channels, 4, 34, 34).contiguous(memory_format=torch.channels_last_3d)
    filters = random(channels, channels, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
    qkv = random(1, tokens, heads, 64)
    scores = 4.0 * heads * tokens**2 * 64
    by_head = qkv.transpose(1, 2)
    return {
        "linear": (2.0 * rows * width**2, lambda: onednn_linear(x, weight, bias)),
        "convolution": (
            2.0 * 27 * channels**2 * 2 * 32 * 32,
            lambda: (
                torch.ops.aten.mkldnn_convolution(clip, filters, None, (0, 0, 0), (1,) * 3, (1,) * 3, 1)
                if dtype in ONEDNN_DTYPES
                else F.conv3d(clip, filters)
            ),
        ),
        "attention": (scores, lambda: F.scaled_dot_product_attention(by_head, by_head, by_head)),
        "blocked_attention": (scores, lambda: blocked_attention(qkv, qkv, qkv)),
    }
