"""What a run says about itself: `metrics.jsonl`, one heartbeat line, and tensorboard where it is installed."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from cogvideox.disk import cannot_write, write_text
from cogvideox.errors import UserError

Scalar = float | int | Tensor


class Tracker:
    """Averages scalars between heartbeats and writes them down.

    `metrics.jsonl` in `folder` gets one object per heartbeat or `write`, each with its "step" (optimizer steps done).
    A resumed run first drops the lines of the steps it is about to repeat. A `silent` one says and writes nothing: of
    several processes one speaks for all.

    Raises:
        UserError: the disk refuses, here or in any later write.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_steps: int,
        start: int = 0,
        interval: int = 20,
        silent: bool = False,
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.num_steps, self.interval, self.silent = num_steps, interval, silent
        if not silent:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._drop_after(start)
                self._file = self.path.open("a", buffering=1)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._board = _tensorboard(self.path.parent / "tensorboard", start)
        self._sums: dict[str, tuple[Scalar, int]] = {}
        self._count = self._samples = 0  # steps since the last heartbeat, and the samples in them
        self._clock = time.monotonic()

    def step(self, step: int, scalars: Mapping[str, Scalar], num_samples: int) -> None:
        """Counts one finished step over `num_samples`. Every `interval` steps the means go to the file and onto the
        heartbeat line.

        `scalars` should have "loss" and "lr". Tensors are summed where they are and read only at the heartbeat, so a
        GPU is not made to wait. Raises UserError when the loss is no longer finite.
        """
        if self.silent:
            return
        for name, value in scalars.items():
            value = value.detach() if isinstance(value, Tensor) else value
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        self._count += 1
        self._samples += num_samples
        if step % self.interval and step != self.num_steps:
            return
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        if not math.isfinite(means.get("loss", 0.0)):
            raise UserError(f"the loss is {means['loss']} by step {step}: resume with a lower optim.lr")
        seconds = (time.monotonic() - self._clock) / self._count
        rate = self._samples / self._count / seconds
        self.write(step, means | {"ms_per_step": 1000 * seconds, "samples_per_second": rate})
        self._say(heartbeat(step, self.num_steps, means, seconds, rate))
        self._sums, self._count, self._samples = {}, 0, 0
        self._clock = time.monotonic()

    def write(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes `scalars` as they are: a validation's result, for example."""
        if self.silent:
            return
        values = {name: float(value) for name, value in scalars.items()}
        try:
            line = {"step": step} | {name: _rounded(value) for name, value in values.items()}
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        if self.silent:
            return
        lead = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{lead}{text}", file=sys.stderr, flush=True)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """`with tracker.pause():` around work that is no training step, so that ms/step and the ETA stay honest."""
        began = time.monotonic()
        yield
        self._clock += time.monotonic() - began

    def close(self) -> None:
        if self.silent:
            return
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _say(self, line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _drop_after(self, start: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line)
            except ValueError:  # the half line of a killed run
                continue
        write_text(self.path, "".join(f"{line}\n" for line in kept))


def heartbeat(step: int, num_steps: int, means: Mapping[str, float], seconds: float, rate: float) -> str:
    """One line: step, loss, lr, ms a step, samples a second (`rate`), time left. A step takes `seconds`."""
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    parts += [f"{name} {means[name]:.4g}" for name in ("loss", "lr") if name in means]
    parts += [f"{1000 * seconds:.0f} ms/step", f"{rate:.1f} samples/s"]
    parts += [f"ETA {duration((num_steps - step) * seconds)}"]
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


def _tensorboard(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra: `pip install cogvideox[train]`
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
