"""The metrics of ablations: names, units, and whether lower or higher is better. Imports no torch."""

from dataclasses import dataclass

TIMESTEPS = (100, 300, 500, 700, 900)
"""Timesteps of the validation loss, those of the paper's table 9."""


@dataclass(frozen=True)
class AblationMetric:
    """A metric of runs.

    Attributes:
        name: its name in results; for a named set of clips or videos, ", NAME" is appended.
        per: the unit that has one value: "clip", "prompt" or "run".
        scale: factor by which values are multiplied in tables.
    """

    name: str
    title: str
    per: str
    lower_is_better: bool
    digits: int = 3
    scale: float = 1.0


METRICS = {
    metric.name: metric
    for metric in (
        AblationMetric("loss", "validation loss", "clip", True, 4),
        *(AblationMetric(f"loss at {t}", f"validation loss at t = {t}", "clip", True, 4) for t in TIMESTEPS),
        AblationMetric("loss variance", "variance of the training loss", "run", True, 5),
        AblationMetric("facts", "correct facts, %", "prompt", False, 1, 100.0),
        AblationMetric("all facts", "videos with all facts correct, %", "prompt", False, 1, 100.0),
        AblationMetric("motion", "correct motion of moving toys, %", "prompt", False, 1, 100.0),
        AblationMetric("consistency", "temporal consistency, %", "prompt", False, 1, 100.0),
        AblationMetric("consistent motion", "consistency, 0 if motion is wrong, %", "prompt", False, 1, 100.0),
        AblationMetric("brightness slope", "brightness slope (1: as the prompts' scenes)", "prompt", False, 3),
        AblationMetric("brightness error", "brightness error, levels", "prompt", True, 1),
        AblationMetric("flicker", "flicker, levels", "prompt", True, 2),
        AblationMetric("sharpness error", "sharpness error, log ratio", "prompt", True, 3),
        AblationMetric("toy count error", "toys too many or too few", "prompt", True, 2),
        AblationMetric("overlay", "videos with an overlay, %", "prompt", True, 1, 100.0),
        AblationMetric("psnr", "PSNR, dB", "clip", False, 2),
        AblationMetric("ssim", "SSIM", "clip", False, 3),
        AblationMetric("flicker error", "flicker error, levels", "clip", True, 2),
        AblationMetric("detail error", "detail error, log ratio", "clip", True, 3),
    )
}


def metric_of(name: str) -> AblationMetric:
    """Return the metric of a name in results, such as "loss, 17 frames"."""
    return METRICS[name.partition(", ")[0]]


def title_of(name: str) -> str:
    """Return the title of a name in results."""
    _, comma, of_set = name.partition(", ")
    return f"{metric_of(name).title}{comma}{of_set}"
