"""Where a stage's work is done: in the processes of this machine, or on a cluster."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from cogvideox.engine.stage import Answer, Row, Stage

Place = Literal["local", "ray"]


def run(
    stage: Stage[Row, Answer], batches: Iterable[Sequence[Row]], *, workers: int = 0, place: Place = "local"
) -> Iterator[Answer]:
    """The answer to every batch, in their order, as they come.

    Args:
        workers: processes; 0 is this one, and on a cluster as many as it has CPUs.
        place: "local" is this machine, "ray" the cluster that `RAY_ADDRESS` names or, without one, this machine too.

    Raises:
        UserError: a process was killed; Ray is not installed. What a stage raises, with its traceback as a note.
    """
    if place == "ray":
        from cogvideox.engine import ray

        return ray.run(stage, batches, workers)
    from cogvideox.engine import local

    return local.run(stage, batches, workers)
