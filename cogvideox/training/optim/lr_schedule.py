"""Learning-rate schedule: linear warm-up, then constant or cosine decay."""

import math

from cogvideox.training.config import OptimSettings


def learning_rate(step: int, num_steps: int, settings: OptimSettings) -> float:
    """Return the learning rate of optimizer step `step` (0-based) of `num_steps`.

    Linear warm-up over `warmup_steps`, from `lr / warmup_steps` in the first step; then constant, or cosine decay to
    `final_lr * lr` in the last step.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup_steps) / max(1, num_steps - 1 - settings.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return settings.lr * (settings.final_lr + (1.0 - settings.final_lr) * cosine)
