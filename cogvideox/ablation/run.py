"""Run an ablation: all runs, one after the other or through an executor, and the report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from cogvideox.ablation.arm import DATA, Ablation
from cogvideox.ablation.plan import AblationPlan
from cogvideox.ablation.runs import Run, RunTask, list_runs, result_file
from cogvideox.ablation.scores.degraded_clips import OnProgress, write_store
from cogvideox.atomic_io import remove_stale_files
from cogvideox.errors import UserError
from cogvideox.executor.base import Backend
from cogvideox.executor.feed import run_feed
from cogvideox.executor.job_array import Shard

OnRun = Callable[[Path, int, int], None]
"""Called with the result file of a run, the number of finished runs, and the total."""


def prepare(ablation: Ablation, out: Path, on_progress: OnProgress | None = None) -> None:
    """Write the data that all runs share, if the ablation has any. Other processes wait."""
    if ablation.data is not None:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / "data.lock"):
            write_store(out / DATA, ablation.data, on_progress)


def run_ablation(
    ablation: Ablation,
    plan: AblationPlan,
    out: Path,
    *,
    workers: int = 0,
    backend: Backend = "local",
    shard: Shard | None = None,
    on_run: OnRun | None = None,
) -> bool:
    """Finish the runs that have no result yet.

    Args:
        workers: number of processes; 0 is this process or, with Ray, one per GPU (or CPU).
        shard: this job's part of the runs, in a job array.

    Returns:
        Whether all runs of all jobs are finished.

    Raises:
        AblationStopped: a training was stopped by a signal, after it saved a checkpoint.
        UserError: a worker process was killed twice in the same run; see also the trainers.
    """
    runs = list_runs(ablation, plan)
    own: Sequence[Run] = runs if shard is None else shard.of(runs)
    missing = [run for run in own if not result_file(ablation, run, out).is_file()]
    remaining = iter(missing)

    def next_batch() -> tuple[int, list[Run]] | None:
        run = next(remaining, None)
        return None if run is None else (0, [run])

    done = len(own) - len(missing)
    for outcome in run_feed([RunTask(ablation, plan, str(out))], next_batch, workers=workers, backend=backend):
        if outcome.lost:
            run = outcome.batch[0]
            raise UserError(
                f"the process of the run {run.arm}, seed {run.seed}, was killed twice, probably because memory ran "
                "out: run it again with fewer workers (--workers)"
            )
        done += 1
        if on_run is not None:
            on_run(Path(outcome.result[0]), done, len(own))
    if any(not result_file(ablation, run, out).is_file() for run in runs):
        return False
    remove_stale_files(out / "results")
    return True
