"""Run management shared by all trainers: run folder, lock, resume, metrics, checkpoints and preemption.

with training_run(settings, out) as run:
    ...                                              # build the networks on run.device
    run.restore({"model": model, ...}, num_samples)
    for step, batch in run.steps(batches):
        ...                                          # forward and backward
        if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
            ...                                      # optimizer step, EMA
        run.tracker.step(run.done, scalars, work)
        with run.tracker.pause():
            ...                                      # validation and samples, if run.due(interval)
            run.save()
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cogvideox.dataset.prefetch import prefetch
from cogvideox.device import choose_device, deterministic_algorithms
from cogvideox.parallel import mesh
from cogvideox.parallel.environment import world_size
from cogvideox.parallel.mesh import Ranks
from cogvideox.training.checkpoint import Stateful, restore_run
from cogvideox.training.config import due
from cogvideox.training.fault_tolerance.nonfinite_guard import NonFiniteGuard
from cogvideox.training.fault_tolerance.preemption import PreemptionHandler, TrainingStopped
from cogvideox.training.fault_tolerance.run_lock import run_lock
from cogvideox.training.metrics import throughput
from cogvideox.training.metrics.experiment_trackers import check_packages, open_trackers
from cogvideox.training.metrics.tracker import Tracker, print_above_heartbeat

Batch = TypeVar("Batch")


class TrainingRun:
    """A training run in the folder `out`, opened by `training_run`.

    Attributes:
        config: `settings.run`.
        ranks: the processes started by `torchrun`; None for a single process.
        start: optimizer steps done when this process started or resumed the run.
        done: optimizer steps done, including the current one.
        tracker: writes metrics on rank 0.
        guard: decides whether the optimizer may step.
    """

    def __init__(
        self,
        settings: Any,
        out: Path,
        resume: bool,
        preemption: PreemptionHandler,
        ranks: Ranks | None,
        stack: ExitStack,
    ) -> None:
        self.settings, self.config, self.out, self.resume = settings, settings.run, out, resume
        self.preemption, self.ranks, self.is_main = preemption, ranks, ranks is None or ranks.rank == 0
        self.device = choose_device(self.config.device) if ranks is None else ranks.device
        self.start, self.done, self._stack = 0, 0, stack

    def restore(self, parts: Mapping[str, Stateful], num_samples: Callable[[int], int]) -> None:
        """Restore `parts` from the newest checkpoint, if there is one, and open the metrics.

        Args:
            num_samples: returns the number of samples seen in the first n steps; called after `parts` are restored.

        Raises:
            UserError: the metrics cannot be written; see also `checkpoint.restore_run`.
        """
        config, self.parts = self.config, parts
        self.checkpoints, self.start = restore_run(
            self.out, self.settings, parts, resume=self.resume, keep=config.keep_checkpoints, ranks=self.ranks
        )
        self.done = self.start
        self.tracker = Tracker(
            self.out,
            num_steps=config.num_steps,
            start=self.start,
            samples=num_samples(self.start),
            interval=config.log_interval,
            peak=throughput.peak_flops(self.device),
            silent=not self.is_main,
            open_trackers=lambda: open_trackers(
                config.trackers, self.out, self.start, self.settings, print_above_heartbeat
            ),
        )
        self._stack.push(lambda error, *_: self.tracker.close(failed=error is not None))
        self.guard = NonFiniteGuard(self.tracker, self.checkpoints, config.max_skipped)

    def prefetch(self, make_batch: Callable[[int], Batch]) -> Generator[Batch, None, None]:
        """Prefetch the batches `make_batch(step)` of the remaining steps (0-based) in `config.workers` processes."""
        steps, pin = range(self.start, self.config.num_steps), self.device.type == "cuda"
        return prefetch(make_batch, steps, workers=self.config.workers, pin_memory=pin)

    def steps(self, batches: Generator[Batch, None, None]) -> Iterator[tuple[int, Batch]]:
        """Yield the index (0-based) and the batch of each remaining step. `batches` is closed when the run ends."""
        self._stack.callback(batches.close)
        self.preemption.reset_timing()
        self.tracker.restart()
        for step, batch in zip(range(self.start, self.config.num_steps), batches, strict=True):
            self.done = step + 1
            yield step, batch
            if self.config.compile and step == self.start:
                self.preemption.reset_timing()  # the step that compiles takes longer than all other steps

    def due(self, interval: int, *, at_end: bool = True) -> bool:
        """Return whether an action that is repeated every `interval` steps (0: never) is due now.

        Args:
            at_end: the action is also due after the last step.
        """
        return due(self.done, interval) or (at_end and self.done == self.config.num_steps)

    @property
    def sample_path(self) -> Path:
        """Path of the samples of the current step."""
        return self.out / f"samples/step-{self.done:08d}.png"

    def save(self) -> None:
        """Save a checkpoint if it is due or if the run has to stop early.

        Raises:
            TrainingStopped: a rank received a signal, or the time limit is reached.
            UserError: the checkpoint cannot be written.
        """
        reason = None
        if self.done < self.config.num_steps:
            local = self.preemption.stop_reason()
            reasons = [local] if self.ranks is None else self.ranks.all_gather_objects(local)
            reason = next((reason for reason in reasons if reason is not None), None)
        if reason or self.due(self.config.save_interval):
            self.checkpoints.save(self.done, self.parts)
        if reason:
            raise TrainingStopped(reason)

    def on_rank_zero(self, function: Callable[[], Any]) -> Any:
        """Call `function` on rank 0 only; every rank returns its result or raises its error."""
        return function() if self.ranks is None else self.ranks.run_on_rank_zero(function)


@contextmanager
def training_run(
    settings: Any, out: str | Path, *, resume: bool = False, max_seconds: float | None = None, sequence: int = 1
) -> Iterator[TrainingRun]:
    """Open the run in the folder `out`: lock it, join the processes of `torchrun`, handle SIGINT and SIGTERM.

    `TrainingStopped` raised in the block is printed and suppressed, so the code after the block handles a stopped run.

    Args:
        settings: a training config, whose field `run` is a `RunSettings`.
        resume: continue from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.
        sequence: number of ranks over which a sample is split.

    Raises:
        UserError: the folder is in use or not writable; the device is not available; `sequence` does not divide the
            number of ranks; the package of an experiment tracker is missing.
    """
    check_packages(settings.run.trackers)
    with ExitStack() as stack:
        preemption = stack.enter_context(PreemptionHandler(max_seconds))
        if settings.run.deterministic:
            stack.enter_context(deterministic_algorithms())
        ranks = None
        if world_size() > 1:
            ranks = stack.enter_context(mesh.init_ranks(sequence=sequence, device=settings.run.device))
        run = TrainingRun(settings, Path(out), resume=resume, preemption=preemption, ranks=ranks, stack=stack)
        run.on_rank_zero(lambda: stack.enter_context(run_lock(out)))
        try:
            yield run
        except TrainingStopped as reason:
            if run.is_main:
                steps = f"after step {run.done} of {run.config.num_steps}"
                print_above_heartbeat(f"stopped {steps if run.done > run.start else 'before the first step'}: {reason}")
