"""The bookkeeping that all trainers share: run folder, lock, resume, metrics, checkpoints and preemption.

with training_run(settings, out) as run:
    ...                                              # build the networks on run.device
    run.restore({"model": model, ...}, num_samples)
    for step, batch in run.steps(batches):
        ...                                          # forward and backward
        if run.is_finite(loss=loss, grad_norm=grad_norm):
            ...                                      # optimizer step
        run.log(scalars, work)
        with run.tracker.pause():
            ...                                      # validation, where it is due
            run.save()
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from cogvideox.dataset.prefetch import ahead
from cogvideox.device import choose_device
from cogvideox.parallel import mesh
from cogvideox.parallel.mesh import Ranks
from cogvideox.training.checkpoint import Stateful, open_run
from cogvideox.training.config import due
from cogvideox.training.fault_tolerance.nonfinite_guard import Guard
from cogvideox.training.fault_tolerance.preemption import Interruption, Stopped
from cogvideox.training.fault_tolerance.run_lock import run_lock
from cogvideox.training.metrics import throughput
from cogvideox.training.metrics.tracker import Scalar, Tracker, Work, print_line

Batch = TypeVar("Batch")


class Run:
    """A run in its folder `out`. Made by `training_run`.

    Attributes:
        config: `settings.run`.
        ranks: the processes that `torchrun` started; None in a single process.
        start: optimizer steps that were done before this process began.
        done: optimizer steps done, the current one included.
        tracker: writes metrics, on rank 0 alone.
    """

    def __init__(
        self, settings: Any, out: Path, resume: bool, interruption: Interruption, ranks: Ranks | None, stack: ExitStack
    ) -> None:
        self.settings, self.config, self.out, self.resume = settings, settings.run, out, resume
        self.interruption, self.ranks, self.is_main = interruption, ranks, ranks is None or ranks.rank == 0
        self.device = choose_device(self.config.device) if ranks is None else ranks.device
        self.start, self.done, self._stack = 0, 0, stack

    def restore(self, parts: Mapping[str, Stateful], num_samples: Callable[[int], int]) -> None:
        """Restore `parts` from the newest checkpoint, if there is one, and open the metrics.

        Args:
            num_samples: returns how many samples the run has seen in that many steps; called after the restore.

        Raises:
            UserError: as for `checkpoint.open_run`; the metrics cannot be written.
        """
        config, self.parts = self.config, parts
        self.checkpoints, self.start = open_run(
            self.out, self.settings, parts, resume=self.resume, keep=config.keep_checkpoints, ranks=self.ranks
        )
        self.done = self.start
        self.tracker = Tracker(
            self.out,
            num_steps=config.num_steps,
            start=self.start,
            samples=num_samples(self.start),
            interval=config.log_interval,
            peak=throughput.peak(self.device),
            silent=not self.is_main,
        )
        self._stack.callback(self.tracker.close)
        self._guard = Guard(self.tracker, self.checkpoints, config.max_skipped)

    def prefetch(self, make: Callable[[int], Batch]) -> Generator[Batch, None, None]:
        """Make the batches of the remaining steps, given by their indices, ahead of time (`dataset.prefetch`)."""
        steps, pin = range(self.start, self.config.num_steps), self.device.type == "cuda"
        return ahead(make, steps, workers=self.config.workers, pin=pin)

    def steps(self, batches: Generator[Batch, None, None]) -> Iterator[tuple[int, Batch]]:
        """Yield the index (0-based) and the batch of each remaining step. `batches` is closed when the run ends."""
        self._stack.callback(batches.close)
        self.interruption.restart()
        self.tracker.restart()
        for step, batch in zip(range(self.start, self.config.num_steps), batches, strict=True):
            self.done = step + 1
            yield step, batch
            if self.config.compile and step == self.start:
                self.interruption.restart()  # the step that compiles is longer than any later one

    def is_finite(self, **values: Tensor) -> bool:
        """Whether the loss and the gradient norm are finite, so that the optimizer may step (`nonfinite_guard`)."""
        return self._guard.passes(self.done, **values)

    def log(self, scalars: Mapping[str, Scalar], work: Work) -> None:
        """Add the current step to the metrics."""
        self.tracker.step(self.done, scalars, work)

    def due(self, interval: int, *, at_end: bool = True) -> bool:
        """Whether something that happens every `interval` steps (0: never) is due now. At the end it is, too."""
        return due(self.done, interval) or (at_end and self.done == self.config.num_steps)

    @property
    def sample_path(self) -> Path:
        """Where samples of the current step are written."""
        return self.out / f"samples/step-{self.done:08d}.png"

    def save(self) -> None:
        """Save a checkpoint when it is due, or when the run has to stop early.

        Raises:
            Stopped: a rank has a reason to stop before the last step.
            UserError: the checkpoint cannot be written.
        """
        reason = None
        if self.done < self.config.num_steps:
            own = self.interruption.reason()
            reasons = [own] if self.ranks is None else self.ranks.all_gather_objects(own)
            reason = next((reason for reason in reasons if reason is not None), None)
        if reason or self.due(self.config.save_interval):
            self.checkpoints.save(self.done, self.parts)
        if reason:
            raise Stopped(reason)

    def once(self, make: Callable[[], Any]) -> Any:
        """Call `make` on rank 0 alone, and return its result on every rank."""
        return make() if self.ranks is None else self.ranks.run_on_rank_zero(make)


@contextmanager
def training_run(
    settings: Any, out: str | Path, *, resume: bool = False, max_seconds: float | None = None, sequence: int = 1
) -> Iterator[Run]:
    """Open the run in the folder `out`: lock it, join the processes of `torchrun`, catch SIGINT and SIGTERM.

    `Stopped`, raised in the block, is reported and leaves the block; the code after it handles a run that was stopped.

    Args:
        settings: of the training; a field is `run`.
        max_seconds: stop before this time is over.
        sequence: how many ranks share a sample.

    Raises:
        UserError: the folder is in use or cannot be written; no such device; ranks that `sequence` does not divide.
    """
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption(max_seconds))
        several, device = mesh.world_size() > 1, settings.run.device
        ranks = stack.enter_context(mesh.init_ranks(sequence=sequence, device=device)) if several else None
        run = Run(settings, Path(out), resume, interruption, ranks, stack)
        run.once(lambda: stack.enter_context(run_lock(out)))
        try:
            yield run
        except Stopped as reason:
            after = (
                f"after step {run.done} of {run.config.num_steps}" if run.done > run.start else "before the first step"
            )
            if run.is_main:
                print_line(f"stopped {after}: {reason}")
