"""Skip and log steps with a non-finite loss or gradient; end the run after too many consecutive ones."""

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.metrics.tracker import Tracker


class NonFiniteGuard:
    """Decides after each backward pass whether the optimizer may step. The check synchronizes with the device.

    Args:
        limit: maximum number of consecutive steps to skip.
    """

    def __init__(self, tracker: Tracker, checkpoints: Checkpoints, limit: int) -> None:
        self.tracker, self.checkpoints, self.limit = tracker, checkpoints, limit
        self.num_skipped = 0

    def check(self, step: int, **values: Tensor) -> bool:
        """Return whether all values (loss, gradient norm) of step `step` (1-based) are finite.

        If not, prints a line and writes `{"step": ..., "skipped": 1}` to `metrics.jsonl`.

        Raises:
            UserError: more than `limit` consecutive steps were not finite; the message names the newest checkpoint.
        """
        if bool(torch.stack([value.detach().isfinite() for value in values.values()]).all()):
            self.num_skipped = 0
            return True
        self.num_skipped += 1
        nonfinite = ", ".join(f"{name} is {value.item():g}" for name, value in values.items() if not value.isfinite())
        self.tracker.print(f"step {step} is skipped: {nonfinite}")
        self.tracker.write(step, {"skipped": 1})
        if self.num_skipped > self.limit:
            raise UserError(
                f"{nonfinite} at step {step}; {self.num_skipped} steps in a row were not finite: {self._advice()} "
                "with a lower optim.lr"
            )
        return False

    def _advice(self) -> str:
        latest = self.checkpoints.latest()
        return (
            "start again" if latest is None else f"the last good checkpoint is {self.checkpoints.path(latest)}, resume"
        )
