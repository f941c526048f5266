"""What a training run is told: frozen, typed, complete, and free of torch.

A recipe (`recipes.py`) returns one of these whole; the command line overrides single values (`optim.lr=3e-4`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its learning rate (`optim.py`)."""

    lr: float = 1e-3  # peak
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    final_lr: float = 0.0  # what the cosine ends at, as a fraction of `lr`
    grad_clip: float = 1.0  # largest norm of the whole gradient


@dataclass(frozen=True)
class RunSettings:
    """How long, how often, how many. Intervals count optimizer steps; 0 switches the thing off."""

    num_steps: int
    batch_size: int
    seed: int = 0
    ema_decay: float = 0.999
    log_interval: int = 20
    save_interval: int = 500
    validate_interval: int = 500
    sample_interval: int = 1000
    keep_checkpoints: int = 2
