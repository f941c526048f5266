"""A part of `gpu_check.py` while it runs: ways that may fail, time limits, and a report that grows.

GPU time is scarce, so nothing that goes wrong ends a part: a way that fails is a line in the report, and what was
measured before it is on disk already.
"""

import gc
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import Report, gpu_state, interleave, make_row, peak_extra_bytes, print_row, synchronize, write_json
from gpu_suite.options import Options
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Way = Callable[[], Tensor]
_ATTENTION = re.compile(r"flash|fmha|sdpa|attention", re.IGNORECASE)


class OutOfTime(Exception):
    """A way took longer than its limit."""


@dataclass
class Run:
    """A part: its name, its limit in seconds, the file of its report, and what it has found so far."""

    name: str
    file: Path
    limit: float
    options: Options
    rows: list[Report] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @property
    def device(self) -> str:
        return self.options.device

    @property
    def tiny(self) -> bool:
        return self.options.tiny

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def left(self) -> float:
        """Seconds until the limit."""
        return self.limit - (time.perf_counter() - self.began)

    def note(self, **notes: Any) -> None:
        """Add figures to the report."""
        for name, value in notes.items():
            print(f"{name}: {value}", flush=True)
        self.notes |= notes
        self.save()

    def add(self, one: Report) -> None:
        """Add a row, with the state of the GPU right after it."""
        self.rows.append(one | {"gpu": gpu_state() if self.on_gpu else {}})
        show(one)
        self.save()

    def save(self) -> None:
        write_json(self.file, {**self.notes, "rows": self.rows})

    def attempt(self, name: str, action: Callable[[], Any], seconds: float | None = None) -> tuple[Any, str]:
        """Return what an action returns, or None and why it failed.

        Args:
            seconds: its limit; that of the part in any case.
        """
        seconds = self.left() if seconds is None else min(seconds, self.left())
        if seconds <= 0:
            return None, "no time left"
        try:
            with time_limit(seconds):
                return action(), ""
        except Exception as error:  # of a kernel, the compiler, or memory
            why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
            traceback.print_exception(error, limit=-4)
        print(f"{self.name}, {name}: {why}", flush=True)
        self.free_memory()
        return None, why

    def figure(self, name: str, action: Callable[[], Any]) -> None:
        """Note the result of an action under its name, or why it failed."""
        found, why = self.attempt(name, action)
        self.note(**{name: {"failed": why} if why else found})

    def free_memory(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, between two steps of Python."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def compare(
    run: Run,
    task: str,
    builders: Mapping[str, Callable[[], Way]],
    exact: Tensor | None,
    *,
    warmup: int = 1,
) -> Report:
    """A row of ways, first examined one by one, then timed in turn. The first is the reference.

    Each way gets its error (the distance from `exact`, which is float32 and may hold only the first elements of the
    batch), its memory, its kernels, and the seconds of its first call, compilation included. The most important ways
    come first: two fifths of the time left are kept for the timing, and a way may take half of what is left then.
    """
    ready: dict[str, Way] = {}
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    kept = 0.4 * run.left()
    for name, build in builders.items():
        limit = (run.left() - kept) / 2
        found, why = run.attempt(name, lambda build=build: _examine(run, build, exact), limit)
        if found is None:
            failed[name] = why
        else:
            ready[name], facts[name] = found
    base = facts.get(next(iter(builders)), {}).get("error_l2")
    for known in facts.values():
        if base is not None:
            # As close to float32 as the reference, or else an approximation.
            known["exact"] = known["error_l2"] <= 1.1 * base
    rounds, seconds = run.options.rounds, 0.8 * run.left()
    times, why = run.attempt(
        f"{task}, timing", lambda: interleave(ready, rounds, seconds=seconds, warmup=warmup, device=run.device)
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


def _examine(run: Run, build: Callable[[], Way], exact: Tensor | None) -> tuple[Way, dict[str, Any]]:
    began = time.perf_counter()
    way = build()
    result = way()
    synchronize(run.device)
    facts: dict[str, Any] = {"first_seconds": round(time.perf_counter() - began, 2)}
    if exact is not None:
        facts["error_l2"] = relative_l2(result[: len(exact)], exact)
    del result
    facts["peak_extra_bytes"] = peak_extra_bytes(way, run.device)
    facts["kernels"] = kernels(way, run.device)
    return way, facts


def relative_l2(result: Tensor, exact: Tensor) -> float:
    """The distance over the length of the exact result."""
    return ((result.float() - exact).norm() / exact.norm()).item()


def kernels(way: Callable[[], object], device: str) -> dict[str, Any]:
    """The attention kernels and the five longest others, by name, with their shares of the time on the device."""
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
    """Print a row: of the kernels, the name and share of attention."""
    ways = {}
    for name, way in one["ways"].items():
        ways[name] = {fact: value for fact, value in way.items() if fact != "kernels"}
        for kernel, share in list(way.get("kernels", {}).get("attention", {}).items())[:1]:
            ways[name]["attention"] = f"{share:.0%} in {kernel[:70]}"
    print_row(one | {"ways": ways})
