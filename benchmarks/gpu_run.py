"""One piece of `gpu.py` while it runs: ways that may fail, a budget of time, and a report that is written as it grows.

Device time is scarce, so nothing that goes wrong ends a piece: a way that fails is a line in the report, and what was
measured before it is already on the disk.
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
from common import Report, environment, gpu_state, interleave, peak_extra_bytes, print_row, row, wait, write_json
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Way = Callable[[], Tensor]
_ATTENTION = re.compile(r"flash|fmha|sdpa|attention", re.IGNORECASE)


@dataclass
class Run:
    """A piece: its name, where it runs, and what it found so far."""

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
    began: float = field(default_factory=time.perf_counter)

    @property
    def file(self) -> Path:
        return self.out / f"{self.name}.json"

    def left(self) -> float:
        """Seconds of the budget."""
        return self.seconds - (time.perf_counter() - self.began)

    def note(self, **notes: Any) -> None:
        self.notes |= notes
        self.save(False)

    def add(self, one: Report) -> None:
        """A row, with the state that the card is in right after it."""
        self.rows.append(one | {"gpu": gpu_state() if self.device.startswith("cuda") else {}})
        show(one)
        self.save(False)

    def save(self, whole: bool) -> None:
        """The report so far; `whole` once the piece is done, and needs no repetition."""
        what = {"seed": self.seed, "tiny": self.tiny, "weights": "random", "dtype": "bfloat16", **self.notes}
        took = round(time.perf_counter() - self.began, 1)
        report = {"benchmark": f"gpu {self.name}", "whole": whole, "took_seconds": took}
        write_json(self.file, report | {"environment": environment(self.device), "what": what, "rows": self.rows})

    def attempt(self, name: str, action: Callable[[], Any]) -> tuple[Any, str]:
        """What an action gives, and why it gave nothing."""
        if self.left() < 0:
            return None, "there was no time left for it"
        try:
            return action(), ""
        except Exception as error:  # whatever a kernel, a compiler or the memory has to say
            said = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
            traceback.print_exception(error, limit=-2)
        print(f"{self.name}, {name}: {said}", flush=True)
        self.tidy()
        return None, said

    def tidy(self) -> None:
        """Memory that nothing holds any more goes back."""
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
    """A row of ways that are made, looked at one by one, and then timed in turn. The first is the reference.

    Each way gets its error beside the reference's (the distance from `exact`, which is in float32 and may hold only the
    first elements of the batch), its memory, its kernels, and what the first call took, compiling included.
    """
    ready: dict[str, Way] = {}
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, build in builders.items():
        found, why = run.attempt(name, lambda build=build: _look(run, build, exact))
        if found is None:
            failed[name] = why
        else:
            ready[name], facts[name] = found
    base = facts.get(next(iter(builders)), {}).get("error_l2")
    for known in facts.values():
        if base is not None:
            # As near to float32 as the reference is, or the way is an approximation (or wrong).
            known["exact"] = known["error_l2"] <= 1.1 * base
    times, why = run.attempt(
        f"{task}, in turn",
        lambda: interleave(ready, run.rounds, seconds=0.9 * run.left(), warmup=warmup, device=run.device),
    )
    one = (
        row(task, times)
        if times
        else {"task": task, "reference": "", "ways": {name: {"failed": why} for name in ready}}
    )
    for name, known in facts.items():
        one["ways"][name] |= known
    one["ways"] |= {name: {"failed": why} for name, why in failed.items()}
    run.add(one)
    return one


def _look(run: Run, build: Callable[[], Way], exact: Tensor | None) -> tuple[Way, dict[str, Any]]:
    began = time.perf_counter()
    way = build()
    result = way()
    wait(run.device)
    facts: dict[str, Any] = {"first_seconds": round(time.perf_counter() - began, 2)}
    if exact is not None:
        facts["error_l2"] = relative_l2(result[: len(exact)], exact)
    del result
    facts["peak_extra_bytes"] = peak_extra_bytes(way, run.device)
    facts["kernels"] = kernels(way, run.device)
    return way, facts


def relative_l2(result: Tensor, exact: Tensor) -> float:
    """The distance over the length of what is exact."""
    return ((result.float() - exact).norm() / exact.norm()).item()


def kernels(way: Way, device: str) -> dict[str, Any]:
    """The attention kernels and the five longest others, by name, with their shares of the time on the device."""
    on_gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        way()
        wait(device)
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
    """A row for people: of the kernels, the attention's name and share."""
    ways = {}
    for name, way in one["ways"].items():
        ways[name] = {fact: value for fact, value in way.items() if fact != "kernels"}
        for kernel, share in list(way.get("kernels", {}).get("attention", {}).items())[:1]:
            ways[name]["attention"] = f"{share:.0%} in {kernel[:70]}"
    print_row(one | {"ways": ways})
