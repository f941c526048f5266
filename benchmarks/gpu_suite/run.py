"""A running piece of `gpu.py`: its time limit, its report, and comparisons of ways that may fail.

GPU time is scarce, so a failure does not stop a piece: it is recorded in the report, and earlier results are on disk.
"""

import gc
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import (
    Report,
    environment,
    gpu_state,
    interleave,
    make_row,
    peak_extra_bytes,
    print_row,
    synchronize,
    write_json,
)
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Way = Callable[[], Tensor]
_ATTENTION = re.compile(r"flash|fmha|sdpa|attention", re.IGNORECASE)


@dataclass
class Run:
    """The settings and results of a piece."""

    name: str
    out: Path
    device: str
    tiny: bool
    rounds: int
    seconds: float
    seed: int
    max_autotune: bool = False
    rows: list[Report] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    @property
    def file(self) -> Path:
        return self.out / f"{self.name}.json"

    def left(self) -> float:
        """Seconds until the time limit."""
        return self.seconds - (time.perf_counter() - self.start)

    def note(self, **notes: Any) -> None:
        self.notes |= notes
        self.save(complete=False)

    def add(self, one: Report) -> None:
        """Add a row with the current state of the GPU."""
        self.rows.append(one | {"gpu": gpu_state() if self.device.startswith("cuda") else {}})
        show(one)
        self.save(complete=False)

    def save(self, *, complete: bool) -> None:
        """Write the report. `complete` means that the piece need not be repeated."""
        what = {"seed": self.seed, "tiny": self.tiny, "weights": "random", "dtype": "bfloat16", **self.notes}
        took = round(time.perf_counter() - self.start, 1)
        report = {"benchmark": f"gpu {self.name}", "whole": complete, "took_seconds": took}
        write_json(self.file, report | {"environment": environment(self.device), "what": what, "rows": self.rows})

    def attempt(self, name: str, action: Callable[[], Any]) -> tuple[Any, str]:
        """The result of an action, or None and the reason why it failed."""
        if self.left() < 0:
            return None, "no time left"
        try:
            return action(), ""
        except Exception as error:  # of kernels, the compiler or memory allocation
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
            traceback.print_exception(error, limit=-2)
        print(f"{self.name}, {name}: {reason}", flush=True)
        self.free_memory()
        return None, reason

    def free_memory(self) -> None:
        """Collect garbage and return cached GPU memory."""
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


def compare(
    run: Run,
    task: str,
    builders: Mapping[str, Callable[[], Way]],
    exact: Tensor | None,
    *,
    warmup: int = 2,
) -> Report:
    """Build ways, inspect them one by one, time them interleaved, and add a row. The first way is the reference.

    Each way gets its error (distance to `exact`, a float32 result that may cover only the first elements of the batch),
    its peak memory, its kernels, and the time of the first call, including compilation.
    """
    ready: dict[str, Way] = {}
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, build in builders.items():
        found, why = run.attempt(name, lambda build=build: _inspect(run, build, exact))
        if found is None:
            failed[name] = why
        else:
            ready[name], facts[name] = found
    base = facts.get(next(iter(builders)), {}).get("error_l2")
    for known in facts.values():
        if base is not None:
            # Otherwise the way is approximate (or wrong).
            known["exact"] = known["error_l2"] <= 1.1 * base
    times, why = run.attempt(
        f"{task}, in turn",
        lambda: interleave(ready, run.rounds, seconds=0.9 * run.left(), warmup=warmup, device=run.device),
    )
    one = (
        make_row(task, times)
        if times
        else {"task": task, "reference": "", "ways": {name: {"failed": why} for name in ready}}
    )
    for name, known in facts.items():
        one["ways"][name] |= known
    one["ways"] |= {name: {"failed": why} for name, why in failed.items()}
    run.add(one)
    return one


def _inspect(run: Run, build: Callable[[], Way], exact: Tensor | None) -> tuple[Way, dict[str, Any]]:
    start = time.perf_counter()
    way = build()
    result = way()
    synchronize(run.device)
    facts: dict[str, Any] = {"first_seconds": round(time.perf_counter() - start, 2)}
    if exact is not None:
        facts["error_l2"] = relative_l2(result[: len(exact)], exact)
    del result
    facts["peak_extra_bytes"] = peak_extra_bytes(way, run.device)
    facts["kernels"] = kernels(way, run.device)
    return way, facts


def relative_l2(result: Tensor, exact: Tensor) -> float:
    """The L2 distance divided by the norm of the exact result."""
    return ((result.float() - exact).norm() / exact.norm()).item()


def kernels(way: Way, device: str) -> dict[str, Any]:
    """The attention kernels and the five slowest others, by name, with their share of the device time."""
    on_gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        way()
        synchronize(device)
    events = profiler.key_averages()
    if on_gpu:
        spent = {
            event.key: event.self_device_time_total
            for event in events
            if event.device_type == torch.autograd.DeviceType.CUDA
        }
    else:
        spent = {event.key: event.self_cpu_time_total for event in events}
    total = sum(spent.values()) or 1
    order = sorted(spent, key=lambda name: -spent[name])
    attention = [name for name in order if _ATTENTION.search(name)]
    others = [name for name in order if name not in attention][:5]
    share = lambda names: {name[:120]: round(spent[name] / total, 4) for name in names}  # noqa: E731
    return {"attention": share(attention[:3]), "others": share(others), "device_seconds": total / 1e6}


def show(one: Report) -> None:
    """Print a row; of the kernels, only the name and share of attention."""
    ways = {}
    for name, way in one["ways"].items():
        ways[name] = {fact: value for fact, value in way.items() if fact != "kernels"}
        for kernel, share in list(way.get("kernels", {}).get("attention", {}).items())[:1]:
            ways[name]["attention"] = f"{share:.0%} in {kernel[:70]}"
    print_row(one | {"ways": ways})
