"""The Ray Data backend of `feed`. Files must have the same paths on all machines of the cluster.

In turns, all available batches are collected into a data set and processed, and their results are handled. A stateless
task runs as Ray tasks. A task that loads models runs on a pool of actors, each of which opens it once.
"""

import pickle
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from cogvideox.errors import UserError
from cogvideox.executor.base import BatchTask, NextBatch, Outcome

MAX_BATCHES = 10_000  # maximum number per data set, to bound the driver's memory


class _Actor:
    """An actor of the pool, which opens the task once."""

    def __init__(self, task: bytes) -> None:
        self.task, self.work = task, None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.work is None:
                self.work = pickle.loads(self.task).open(0)  # Ray makes only the actor's own GPU visible to it
            return {"index": row["index"], "result": pickle.dumps((self.work(pickle.loads(row["batch"])), None))}
        except Exception as error:  # returned, because Ray skips failed blocks
            error.add_note(f"in a worker:\n{traceback.format_exc()}")
            return {"index": row["index"], "result": pickle.dumps((None, error))}


def run_feed(tasks: Sequence[BatchTask], next_batch: NextBatch, workers: int) -> Iterator[Outcome]:
    """Run tasks with Ray Data: see `feed.run_feed`."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'cogvideox[ray]', or run without --ray") from error

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # blocks of failed machines are missing from the results and are retried
    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    workers = workers or num_gpus or int(resources.get("CPU", 1))
    while groups := _collect(next_batch):
        for task, batches in groups.items():
            for attempt in (1, 2):
                remaining = dict(enumerate(batches))
                for index, result in _process(ray, tasks[task], batches, workers, num_gpus):
                    yield Outcome(task, remaining.pop(index), result)
                batches = [[row] for batch in remaining.values() for row in batch]
                if not batches:
                    break
                if attempt == 2:
                    for batch in batches:
                        yield Outcome(task, batch, lost=True)


def _collect(next_batch: NextBatch) -> dict[int, list[Sequence[Any]]]:
    groups: dict[int, list[Sequence[Any]]] = {}
    for _ in range(MAX_BATCHES):
        batch = next_batch()
        if batch is None:
            break
        groups.setdefault(batch[0], []).append(batch[1])
    return groups


def _process(
    ray: Any, task: BatchTask, batches: Sequence[Sequence[Any]], workers: int, num_gpus: int
) -> Iterator[tuple[int, Any]]:
    items = [{"index": index, "batch": pickle.dumps(batch)} for index, batch in enumerate(batches)]
    # One batch per block, so that a failed machine loses only the batches in progress.
    data = ray.data.from_items(items, override_num_blocks=len(items))
    packed = ray.cloudpickle.dumps(task)
    if getattr(task, "stateless", False):
        data = data.map(lambda row: _Actor(packed)(row), num_cpus=1)
    else:
        size = min(workers, len(items))
        options: dict[str, Any] = {"num_gpus": 1} if num_gpus else {"num_cpus": 1}
        restarts = {"max_task_retries": 1, "max_restarts": 2 * len(items)}  # the default retries indefinitely
        with warnings.catch_warnings():  # up to Ray 2.63, only a deprecated argument sets these options
            warnings.simplefilter("ignore", DeprecationWarning)
            data = data.map(
                _Actor,
                fn_constructor_args=(packed,),
                concurrency=(1, size),
                ray_remote_args_fn=lambda: restarts,
                **options,
            )
    for row in data.iter_rows():
        result, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield int(row["index"]), result
