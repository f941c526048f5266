"""Steps whose loss or gradient is not finite: skipped, logged, and after too many in a row the end of the run."""

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.metrics.tracker import Tracker


class Guard:
    """Says after each backward pass whether to make the step. To know it, it waits for the device.

    Args:
        limit: so many steps in a row may be skipped.
    """

    def __init__(self, tracker: Tracker, checkpoints: Checkpoints, limit: int) -> None:
        self.tracker, self.checkpoints, self.limit = tracker, checkpoints, limit
        self.in_a_row = 0

    def passes(self, step: int, **values: Tensor) -> bool:
        """Whether all values (the loss, the norm of the gradient) of step `step`, counted from 1, are finite.

        If not, one line says so and `metrics.jsonl` gets `{"step": ..., "skipped": 1}`. Raises UserError after one
        more than `limit` in a row; it names the newest checkpoint, which is from before.
        """
        if bool(torch.stack([value.detach().isfinite() for value in values.values()]).all()):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        found = ", ".join(f"{name} is {value.item():g}" for name, value in values.items() if not value.isfinite())
        self.tracker.note(f"step {step} is skipped: {found}")
        self.tracker.write(step, {"skipped": 1})
        if self.in_a_row > self.limit:
            raise UserError(
                f"{found} at step {step}; {self.in_a_row} steps in a row were not finite: {self._good()} "
                "with a lower optim.lr"
            )
        return False

    def _good(self) -> str:
        latest = self.checkpoints.latest()
        return (
            "begin again" if latest is None else f"the last good checkpoint is {self.checkpoints.path(latest)}, resume"
        )
