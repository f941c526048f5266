"""Options that the command line sets for all parts of the GPU check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What the command line sets for all parts."""

    device: str
    tiny: bool
    rounds: int
    steps: int
    seed: int
    all_ways: bool
