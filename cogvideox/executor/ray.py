"""The Ray backend. Files must have the same paths on all machines of the cluster."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cogvideox.errors import UserError
from cogvideox.executor.base import BatchTask, Result, Row


class Worker:
    """A Ray actor that processes batches."""

    def __init__(self, task: BatchTask[Any, Any]) -> None:
        self.work = task.open(0)  # Ray makes only the actor's own GPU visible to it

    def process(self, batch: Sequence[Any]) -> Any:
        """Process a batch."""
        return self.work(batch)


def run(task: BatchTask[Row, Result], batches: Iterable[Sequence[Row]], workers: int) -> Iterator[Result]:
    """Run a batch task on Ray: see `executor.run.run`. Each worker uses one GPU, or one CPU if there are no GPUs."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'cogvideox[ray]', or run without --ray") from error

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    workers = workers or num_gpus or int(resources.get("CPU", 1))
    actor = ray.remote(num_cpus=1, num_gpus=min(num_gpus, 1))(Worker)
    pool = ActorPool([actor.remote(task) for _ in range(workers)])
    try:
        yield from pool.map(_submit, batches)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _submit(worker: Any, batch: Sequence[Any]) -> Any:
    return worker.process.remote(batch)
