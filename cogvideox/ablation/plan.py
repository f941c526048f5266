"""The plan of an ablation: the steps of every arm, and the predicted duration. Imports no torch.

The plan is stored in the output folder, so that an interrupted ablation continues with the same numbers of steps.
"""

from dataclasses import dataclass, field
from pathlib import Path

from cogvideox import config
from cogvideox.ablation.arm import Ablation, Arm, Settings, scaled
from cogvideox.errors import UserError

FILE = "plan.json"


@dataclass(frozen=True)
class AblationPlan:
    """The plan of an ablation.

    Attributes:
        inputs: hash of the arms, the evaluation and the data.
        requested: the budget or the number of steps on the command line.
        scale: multiplier of each stage's nominal number of steps.
        seconds: predicted duration of a run of each arm, training and scoring; empty if it was not measured.
    """

    ablation: str
    inputs: str
    requested: str
    num_seeds: int
    scale: float
    seconds: dict[str, float] = field(default_factory=dict)

    def stages_of(self, arm: Arm, seed: int) -> tuple[Settings, ...]:
        """Return the configs of a run, without paths."""
        return tuple(scaled(stage, self.num_steps(stage), seed) for stage in arm.stages)

    def num_steps(self, stage: Settings) -> int:
        """Return the number of steps of a stage."""
        return max(1, round(stage.run.num_steps * self.scale))

    @property
    def total_seconds(self) -> float:
        """Predicted duration of all runs, one after the other."""
        return self.num_seeds * sum(self.seconds.values())


def read_plan(out: Path) -> AblationPlan | None:
    """Return the plan in a folder, if there is one."""
    return config.load(AblationPlan, out / FILE) if (out / FILE).exists() else None


def check_plan(stored: AblationPlan, ablation: Ablation, inputs: str, requested: str, out: Path) -> None:
    """Raise UserError unless the stored plan is that of the same ablation with the same budget."""
    if stored.ablation != ablation.name:
        raise UserError(f"{out} contains the ablation {stored.ablation}: choose a different folder with --out")
    if stored.inputs != inputs:
        raise UserError(
            f"{out} contains the ablation {ablation.name} with different settings, from another version of "
            "cogvideox: choose a different folder with --out"
        )
    if stored.requested != requested:
        raise UserError(
            f"{out} contains the ablation {ablation.name} planned for {stored.requested}, not for {requested}: choose "
            "the same --budget or --steps, or a different folder with --out"
        )
