"""Runs a part of `gpu_check.py`: failures, time limits, and an incremental report.

GPU time is scarce, so a failure does not end a part: a failed variant is an entry in the report, and earlier
measurements are already on disk.
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

Variant = Callable[[], Tensor]
_ATTENTION = re.compile(r"flash|fmha|sdpa|attention", re.IGNORECASE)


class OutOfTime(Exception):
    """A measurement exceeded its time limit."""


@dataclass
class Run:
    """A running part: its name, time limit in seconds, report file, and the results so far."""

    name: str
    file: Path
    limit: float
    options: Options
    rows: list[Report] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

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

    def remaining(self) -> float:
        """Return the seconds until the time limit."""
        return self.limit - (time.perf_counter() - self.start)

    def note(self, **notes: Any) -> None:
        """Add values to the report."""
        for name, value in notes.items():
            print(f"{name}: {value}", flush=True)
        self.notes |= notes
        self.save()

    def add(self, row: Report) -> None:
        """Add a row, with the current state of the GPU."""
        self.rows.append(row | {"gpu": gpu_state() if self.on_gpu else {}})
        show(row)
        self.save()

    def save(self) -> None:
        write_json(self.file, {**self.notes, "rows": self.rows})

    def attempt(self, name: str, action: Callable[[], Any], seconds: float | None = None) -> tuple[Any, str]:
        """Return the result of an action and "", or None and the reason why it failed.

        Args:
            seconds: time limit of the action, in addition to that of the part.
        """
        seconds = self.remaining() if seconds is None else min(seconds, self.remaining())
        if seconds <= 0:
            return None, "no time left"
        try:
            with time_limit(seconds):
                return action(), ""
        except Exception as error:  # such as kernel, compiler and out-of-memory errors
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
            traceback.print_exception(error, limit=-4)
        print(f"{self.name}, {name}: {reason}", flush=True)
        self.free_memory()
        return None, reason

    def figure(self, name: str, action: Callable[[], Any]) -> None:
        """Add the result of an action to the report under `name`, or the reason why it failed."""
        result, reason = self.attempt(name, action)
        self.note(**{name: {"failed": reason} if reason else result})

    def free_memory(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after this many seconds, between two Python instructions."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"more than {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def compare(
    run: Run,
    task: str,
    builders: Mapping[str, Callable[[], Variant]],
    exact: Tensor | None,
    *,
    warmup: int = 1,
) -> Report:
    """Measure and time all variants, and add them to the report as a row. The first variant is the reference.

    A variant's results are its error (the distance from `exact`, which is in float32 and may contain only the first
    elements of the batch), its memory, its kernels, and the seconds of its first call, including compilation. List the
    most important variants first: 40% of the remaining time is reserved for timing, and each variant may take half of
    the rest.
    """
    ready: dict[str, Variant] = {}
    columns: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    reserved = 0.4 * run.remaining()
    for name, build in builders.items():
        limit = (run.remaining() - reserved) / 2
        examined, reason = run.attempt(name, lambda build=build: _examine(run, build, exact), limit)
        if examined is None:
            failed[name] = reason
        else:
            ready[name], columns[name] = examined
    reference_error = columns.get(next(iter(builders)), {}).get("error_l2")
    for values in columns.values():
        if reference_error is not None:
            values["exact"] = values["error_l2"] <= 1.1 * reference_error
    rounds, seconds = run.options.rounds, 0.8 * run.remaining()
    times, reason = run.attempt(
        f"{task}, timing", lambda: interleave(ready, rounds, seconds=seconds, warmup=warmup, device=run.device)
    )
    row = (
        make_row(task, times)
        if times
        else {"task": task, "reference": "", "variants": {name: {"failed": reason} for name in ready}}
    )
    for name, values in columns.items():
        row["variants"][name] |= values
    row["variants"] |= {name: {"failed": reason} for name, reason in failed.items()}
    run.add(row)
    return row


def _examine(run: Run, build: Callable[[], Variant], exact: Tensor | None) -> tuple[Variant, dict[str, Any]]:
    start = time.perf_counter()
    variant = build()
    result = variant()
    synchronize(run.device)
    columns: dict[str, Any] = {"first_seconds": round(time.perf_counter() - start, 2)}
    if exact is not None:
        columns["error_l2"] = relative_l2(result[: len(exact)], exact)
    del result
    columns["peak_extra_bytes"] = peak_extra_bytes(variant, run.device)
    columns["kernels"] = kernels(variant, run.device)
    return variant, columns


def relative_l2(result: Tensor, exact: Tensor) -> float:
    """Return the L2 distance from the exact result, divided by its norm."""
    return ((result.float() - exact).norm() / exact.norm()).item()


def kernels(variant: Callable[[], object], device: str) -> dict[str, Any]:
    """Return the attention kernels and the five longest other kernels, each with its fraction of the device time."""
    on_gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        variant()
        synchronize(device)
    events = profiler.key_averages()
    if on_gpu:
        times = {
            event.key: event.self_device_time_total
            for event in events
            if event.device_type == torch.autograd.DeviceType.CUDA
        }
    else:
        times = {event.key: event.self_cpu_time_total for event in events}
    total = sum(times.values()) or 1
    order = sorted(times, key=lambda name: -times[name])
    attention = [name for name in order if _ATTENTION.search(name)]
    others = [name for name in order if name not in attention][:5]
    fractions = lambda names: {name[:120]: round(times[name] / total, 4) for name in names}  # noqa: E731
    return {"attention": fractions(attention[:3]), "others": fractions(others), "device_seconds": total / 1e6}


def show(row: Report) -> None:
    """Print a row. Of the kernels, only the attention kernel and its fraction of the time are printed."""
    variants = {}
    for name, variant in row["variants"].items():
        variants[name] = {column: value for column, value in variant.items() if column != "kernels"}
        for kernel, fraction in list(variant.get("kernels", {}).get("attention", {}).items())[:1]:
            variants[name]["attention"] = f"{fraction:.0%} in {kernel[:70]}"
    print_row(row | {"variants": variants})
