"""The recipe: all parameters of a curation. The same recipe and raw files give the same manifest."""

from dataclasses import dataclass, field
from typing import Any

from cogvideox import config
from cogvideox.curation.labels.stage import Labels
from cogvideox.curation.signals.registry import SIGNALS
from cogvideox.curation.stages.cut import Cut
from cogvideox.curation.stages.duplicates import Duplicates
from cogvideox.curation.stages.probe import Probe
from cogvideox.curation.stages.split import Split
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Policy

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Recipe:
    """The stages with their parameters.

    Attributes:
        signals: parameters of each signal to run, by name. None runs all signals whose packages and models are
            installed, with default parameters.
        keep: bounds on columns. Clips out of bounds stay in the manifest, but are not listed for training.
        retries: number of retries of a row after an unexpected error.
    """

    probe: Probe = field(default_factory=Probe)
    split: Split = field(default_factory=Split)
    cut: Cut = field(default_factory=Cut)
    signals: dict[str, dict[str, Any]] | None = None
    labels: Labels = field(default_factory=Labels)
    duplicates: Duplicates = field(default_factory=Duplicates)
    keep: Policy = field(default_factory=Policy)
    retries: int = 2

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise UserError(f"retries={self.retries} must be 0 or more")
        if self.keep.balance is not None or not self.keep.drop_duplicates or len(self.keep.knots) > 1:
            raise UserError(
                "keep supports constant bounds, labels and a target only: use `cogvideox select` for balance and for "
                "thresholds that move; to keep near-duplicates, set duplicates.max_bits=-1 duplicates.same_cosine=2"
            )
        for name in self.signals or ():
            if name not in SIGNALS:
                raise UserError(f"unknown signal {name}; available: {', '.join(sorted(SIGNALS))}")

    def build_signals(self) -> dict[str, Any]:
        """Return the signals by name, in the order of their names.

        Raises:
            UserError: a parameter is unknown or invalid.
        """
        parameters = {name: {} for name in SIGNALS} if self.signals is None else self.signals
        return {
            name: config.from_dict(SIGNALS[name], parameters[name], where=f"signal {name}")
            for name in sorted(parameters)
        }
