"""Selection of the fastest attention kernel for a shape. Results differ by rounding only.

PyTorch's own selection changes between versions and excludes FlashAttention 3 and 4, which are separate packages that
must be activated. So the available kernels are timed once per shape.

Axes: b batch, n tokens, k heads of c channels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import median
from time import perf_counter

import torch
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, list_flash_attention_impls, sdpa_kernel

from cogvideox.dtype import dtype_name
from cogvideox.hardware.blocked_attention import MIN_BLOCK, blocked_attention
from cogvideox.hardware.cpu_probe import cpu_probe
from cogvideox.transformer.attention import Attend, Heads, Keys, StreamLayout, dense_attention

_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

BLOCKED = "blocked"
"""Name of `hardware.blocked_attention`, for CPUs on which it is faster than PyTorch's kernel."""
MIN_PROBED_WIDTH = 1024
"""Minimum width of a model for which the CPU's speed selects the kernel in float32. Smaller models, such as the shipped
one, always use PyTorch's kernel, so that their results never depend on a measurement."""

_WARM_UP = 0.1
"""Duration of the warm-up in seconds."""
_ROUNDS = 7
"""Number of measurements of each kernel."""

# Versions of FlashAttention other than PyTorch's own (FA2), by major compute capability, fastest first.
_FLASH_PACKAGES = {9: ("FA3", "FA4"), 10: ("FA4",)}


@dataclass(frozen=True)
class AttentionBackend:
    """The selected kernel and the times of all kernels. The kernel "default" is PyTorch's own choice."""

    name: str
    milliseconds: dict[str, float]
    flash: str = "FA2"
    """The version of FlashAttention that "flash" uses."""

    @property
    def attend(self) -> Attend:
        """Dense attention with this kernel."""
        if self.name == BLOCKED:
            return attend_in_blocks
        return attend_with(self.name) if self.name in _BACKENDS else dense_attention

    def __str__(self) -> str:
        return self.flash if self.name == "flash" else self.name


_recorded: ContextVar[set[str]] = ContextVar("attention backends in use")


@contextmanager
def record_backends() -> Iterator[set[str]]:
    """Collect the names of the backends that `fastest_backend` returns in this context."""
    names: set[str] = set()
    token = _recorded.set(names)
    try:
        yield names
    finally:
        _recorded.reset(token)


def fastest_backend(
    num_heads: int, num_tokens: int, batch: int, dtype: torch.dtype, device: torch.device, *, head_dim: int = 64
) -> AttentionBackend:
    """Return the fastest kernel for a shape. The first call for a shape times the kernels, synchronizing the GPU.

    Kernels that do not support the GPU, the PyTorch version or the shape are skipped. On a CPU, the cached probe
    decides between "default" and "blocked", in float32 only for large models.
    """
    backend = _fastest(num_heads, num_tokens, batch, dtype, device, head_dim)
    if (names := _recorded.get(None)) is not None:
        names.add(str(backend))
    return backend


def _fastest(
    num_heads: int, num_tokens: int, batch: int, dtype: torch.dtype, device: torch.device, head_dim: int
) -> AttentionBackend:
    if device.type == "cuda":
        return _timed(num_heads, num_tokens, batch, dtype, device, head_dim)
    if device.type == "cpu" and (dtype != torch.float32 or num_heads * head_dim >= MIN_PROBED_WIDTH):
        rates = cpu_probe().rates.get(dtype_name(dtype))
        return AttentionBackend(BLOCKED if rates is not None and rates.prefers_blocks else "default", {})
    return AttentionBackend("default", {})


@lru_cache(maxsize=64)
@torch.inference_mode()
def _timed(
    num_heads: int, num_tokens: int, batch: int, dtype: torch.dtype, device: torch.device, head_dim: int
) -> AttentionBackend:
    flash = _activate_flash_attention(torch.cuda.get_device_capability(device)[0])
    heads = torch.randn(batch, num_tokens, num_heads, head_dim, dtype=dtype, device=device)
    calls = {name: partial(_milliseconds, attend_with(name), heads) for name in _BACKENDS}
    times = median_times({name: call for name, call in calls.items() if _is_supported(call)})
    return AttentionBackend(min(times, key=times.__getitem__, default="default"), times, flash)


@lru_cache  # the compiler would recompile for a new function
def attend_with(name: str) -> Attend:
    """Return dense attention with the named kernel. It raises RuntimeError for unsupported inputs."""

    def attend(q: Heads, k: Keys, v: Keys, layout: StreamLayout) -> Heads:
        with sdpa_kernel(_BACKENDS[name]):
            return dense_attention(q, k, v, layout)

    return attend


def attend_in_blocks(q: Heads, k: Keys, v: Keys, layout: StreamLayout) -> Heads:
    """Dense attention on a CPU as explicit matrix products; with gradients, compiled or for few tokens, PyTorch's."""
    is_small = q.shape[1] < MIN_BLOCK or k.shape[1] < MIN_BLOCK
    if is_small or torch.compiler.is_compiling() or torch.is_grad_enabled() or v.device.type != "cpu":
        return dense_attention(q, k, v, layout)
    return blocked_attention(q, k, v)


@lru_cache(maxsize=1)
def _activate_flash_attention(capability: int) -> str:
    """Activate the fastest installed FlashAttention as PyTorch's "flash" backend; return its version."""
    for name in _FLASH_PACKAGES.get(capability, ()):
        if name in list_flash_attention_impls():
            try:
                activate_flash_attention_impl(name)
                return name
            except (ImportError, RuntimeError):  # not installed, or built for a different version
                continue
    return "FA2"


def median_times(calls: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median of the times that each call returns.

    Calls are interleaved, so that changes of the GPU's clock affect all of them. Calls in the first `_WARM_UP` seconds,
    in which the clock rises, are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = perf_counter()
    while calls and perf_counter() - start < _WARM_UP:
        for call in calls.values():
            call()
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            times[name].append(call())
    return {name: median(samples) for name, samples in times.items()}


def _is_supported(call: Callable[[], float]) -> bool:
    try:
        call()
    except RuntimeError:  # "No available kernel"
        return False
    return True


def _milliseconds(attend: Attend, heads: Heads) -> float:
    layout = StreamLayout((0, heads.shape[1]))
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    attend(heads, heads, heads, layout)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
