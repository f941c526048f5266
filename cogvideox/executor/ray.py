"""A Ray cluster, on whose machines the files lie under the same paths."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cogvideox.errors import UserError
from cogvideox.executor.base import Result, Row, Task


class Worker:
    """What runs on a machine of the cluster."""

    def __init__(self, stage: Task[Any, Any]) -> None:
        self.work = stage.open(0)  # of the machine's GPUs it sees only its own

    def do(self, batch: Sequence[Any]) -> Any:
        """The answer to one batch."""
        return self.work(batch)


def run(stage: Task[Row, Result], batches: Iterable[Sequence[Row]], workers: int) -> Iterator[Result]:
    """See `stage.run`. Where the cluster has GPUs every worker takes one, or else a CPU."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'cogvideox[ray]', or work without it") from error

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    there = ray.cluster_resources()
    num_gpus = int(there.get("GPU", 0))
    workers = workers or num_gpus or int(there.get("CPU", 1))
    actor = ray.remote(num_cpus=1, num_gpus=min(num_gpus, 1))(Worker)
    pool = ActorPool([actor.remote(stage) for _ in range(workers)])
    try:
        yield from pool.map(_send, batches)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _send(worker: Any, batch: Sequence[Any]) -> Any:
    return worker.do.remote(batch)
