"""Metrics of a run: `metrics.jsonl`, the heartbeat line, and experiment trackers."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cogvideox.atomic_io import cannot_write, write_text
from cogvideox.errors import UserError
from cogvideox.training.metrics.tracker_group import TrackerGroup
from cogvideox.untrusted.files import read_bytes

Scalar = float | int | Tensor

_MAX_PRINTED = 3
"""Number of results of a validation that are printed; all of them are written."""


@dataclass(frozen=True)
class StepWork:
    """Work done in one or several steps: samples and tokens of all ranks, FLOPs of this rank."""

    samples: int = 0
    tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: "StepWork") -> "StepWork":
        return StepWork(self.samples + other.samples, self.tokens + other.tokens, self.flops + other.flops)


class Tracker:
    """Averages scalars between heartbeats, writes them to `metrics.jsonl` in `folder` and prints them.

    Each line is a JSON object with "step" (optimizer steps done). A resumed run first drops the lines of the steps that
    it repeats.

    Args:
        start: number of optimizer steps that earlier processes have done.
        samples: number of samples seen in these steps.
        interval: steps between two heartbeats.
        peak: peak FLOP/s of the device (`throughput.peak_flops`), for the MFU; None: no MFU.
        silent: do not write or print; for all ranks except 0.
        open_trackers: opens the experiment trackers; closed with this one. Their errors do not end the run.

    Raises:
        UserError: a file cannot be written, here or later.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_steps: int,
        start: int = 0,
        samples: int = 0,
        interval: int = 20,
        peak: float | None = None,
        silent: bool = False,
        open_trackers: Callable[[], TrackerGroup] = TrackerGroup,
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.num_steps, self.samples, self.interval, self.peak, self.silent = num_steps, samples, interval, peak, silent
        if not silent:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._drop_after(start)
                self._file = self.path.open("a", buffering=1, encoding="utf-8")
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._trackers = open_trackers()
        self.restart()

    def restart(self) -> None:
        """Start a new interval: clear the sums and the clock."""
        self._sums: dict[str, tuple[Scalar, int]] = {}
        self._count, self._done = 0, StepWork()
        self._clock = time.monotonic()

    def step(self, step: int, scalars: Mapping[str, Scalar], work: StepWork) -> None:
        """Add a finished step. Every `interval` steps, write and print the means, the samples seen and the throughput.

        Tensors are summed on their device and read only at the heartbeat, so that steps do not synchronize with it.

        Args:
            step: 1-based.
            scalars: should have "loss" and "lr".

        Raises:
            UserError: the loss is not finite, or a file cannot be written.
        """
        if self.silent:
            return
        for name, value in scalars.items():
            value = value.detach() if isinstance(value, Tensor) else value
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        self._count += 1
        self._done += work
        self.samples += work.samples
        if step % self.interval and step != self.num_steps:
            return
        means: dict[str, float | int] = {name: float(total) / count for name, (total, count) in self._sums.items()}
        if not math.isfinite(means.get("loss", 0.0)):
            raise UserError(f"the loss is {means['loss']} at step {step}: resume with a lower optim.lr")
        seconds = time.monotonic() - self._clock
        means |= {"samples": self.samples, "ms_per_step": 1000 * seconds / self._count}
        means["samples_per_second"] = self._done.samples / seconds
        if self._done.tokens:
            means["tokens_per_second"] = self._done.tokens / seconds
        if self._done.flops and self.peak is not None:
            means["mfu"] = self._done.flops / seconds / self.peak
        self.write(step, means)
        self._print_heartbeat(heartbeat_line(step, self.num_steps, means))
        self.restart()

    def write(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Write scalars without averaging, such as the results of a validation."""
        if self.silent:
            return
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in scalars.items()}
        try:
            line = {"step": step} | {name: _rounded(value) for name, value in values.items()}
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._trackers.log(step, values)

    def write_validation(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Write the results of a validation, and print the first of them."""
        self.write(step, scalars)
        first = [f"{name} {float(value):.4g}" for name, value in list(scalars.items())[:_MAX_PRINTED]]
        self.print(" | ".join([f"step {step}/{self.num_steps}", *first]))

    def write_samples(self, step: int, sheet: Path) -> None:
        """Pass a sample sheet and its video (`sample_sheet`) to the experiment trackers, if it exists."""
        if not self.silent and sheet.exists():
            self._trackers.log_samples(step, sheet)

    def print(self, text: str) -> None:
        """Print a line that the heartbeat does not overwrite."""
        if not self.silent:
            print_above_heartbeat(text)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the duration of the block, such as a validation, from ms/step, throughput and ETA."""
        start = time.monotonic()
        yield
        self._clock += time.monotonic() - start

    def close(self, *, failed: bool = False) -> None:
        """Close the files and the experiment trackers, which record whether the run failed."""
        if self.silent:
            return
        if sys.stderr.isatty():
            print(file=sys.stderr)
        try:
            self._file.close()
        finally:
            self._trackers.close(failed=failed)

    def _print_heartbeat(self, line: str) -> None:
        if sys.stderr.isatty():  # a line wider than the window could not be overwritten
            line = line[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _drop_after(self, start: int) -> None:
        """Drop the lines of steps after `start`."""
        kept = []
        for line in _read_lines(self.path):
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, RecursionError):  # an incomplete line of a killed run
                continue
        write_text(self.path, "".join(f"{line}\n" for line in kept))  # replaces a symbolic link, never its target


def _read_lines(path: Path) -> list[str]:
    return read_bytes(path, "TABLE_BYTES").decode("utf-8", "replace").splitlines() if path.exists() else []


def heartbeat_line(step: int, num_steps: int, means: Mapping[str, float | int]) -> str:
    """Format the means of an interval for the terminal, with the ETA."""
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    for name, format_value in _HEARTBEAT_FORMATS.items():
        if name in means:
            parts.append(format_value(means[name]))
    parts.append(f"ETA {format_duration((num_steps - step) * means['ms_per_step'] / 1000)}")
    return " | ".join(parts)


_HEARTBEAT_FORMATS: dict[str, Callable[[float | int], str]] = {
    "loss": "loss {:.4g}".format,
    "lr": "lr {:.3g}".format,
    "grad_norm": "grad {:.3g}".format,
    "ms_per_step": "{:.0f} ms/step".format,
    "samples": "{:,.0f} clips".format,
    "samples_per_second": "{:.1f}/s".format,
    "tokens_per_second": "{:,.0f} tokens/s".format,
    "useful": "{:.1%} useful".format,
    "mfu": "MFU {:.1%}".format,
}


def print_above_heartbeat(text: str) -> None:
    """Print a line that the next heartbeat does not overwrite."""
    prefix = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{prefix}{text}", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Format a duration as `42 s`, `12 min` or `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.7g}")
