"""Options of the GPU check that apply to all parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Command-line options that apply to all parts."""

    device: str
    tiny: bool
    rounds: int
    steps: int
    seed: int
    all_variants: bool
