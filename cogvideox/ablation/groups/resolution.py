"""Resolution: low then high, or high from the start; positions extrapolated or interpolated (section 3.2, figure 9)."""

from typing import Any

from cogvideox.ablation.arm import PREVIOUS, Ablation, Arm, Finding
from cogvideox.ablation.baselines import SIDE, STYLES, clips, diffusion, diffusion_evaluation
from cogvideox.dataset.config import ToyboxSource
from cogvideox.training.diffusion.config import DiffusionTraining

LOW = 32
NUM_STEPS = 3_000
HIGH_STEPS = 1_436
"""Steps at the high resolution with the FLOPs of `NUM_STEPS // 2` at the low one, whose clips need less attention."""
FIRST_STEPS, FIRST_WARMUP = 60, 10


def resolution() -> Ablation:
    """Training at 32x32 and then at 64x64, or at 64x64 only; all rows have the same number of tokens."""
    low = diffusion(
        {
            "toybox": (ToyboxSource(clips(side=LOW), caption_styles=STYLES),),
            "target.height": LOW,
            "target.width": LOW,
            "transformer.sample_height": LOW // 8,
            "transformer.sample_width": LOW // 8,
            "run.num_steps": NUM_STEPS // 2,
        }
    )

    def high(num_steps: int, rule: str, **more: Any) -> DiffusionTraining:
        changes: dict[str, Any] = {"model": PREVIOUS, "transformer": None, "position_rule": rule}
        return diffusion({**changes, "run.num_steps": num_steps, **more})

    rest, warmup = NUM_STEPS - NUM_STEPS // 2, {"optim.warmup_steps": FIRST_WARMUP}
    at_first = f"the second stage is short, with a warm-up of {FIRST_WARMUP} of {FIRST_STEPS} steps"
    sharp, blurred = "extrapolated, at first", "interpolated, at first"
    return Ablation(
        name="resolution",
        question="Is training at a low resolution first better at equal compute, and with which positions?",
        field="stages, position_rule",
        equal=("parameters", "tokens"),  # and the compute of the first three arms
        arms=(
            Arm("low then high", (low, high(rest, "slice"))),
            Arm("interpolated", (low, high(rest, "resize_crop"))),
            Arm(
                "high only",
                (diffusion({"run.num_steps": HIGH_STEPS}), high(rest, "slice")),
                "two cycles of the learning rate, as in the other arms; fewer steps in the first, for equal compute",
            ),
            Arm(sharp, (low, high(FIRST_STEPS, "slice", **warmup)), at_first),
            Arm(blurred, (low, high(FIRST_STEPS, "resize_crop", **warmup)), at_first),
        ),
        findings=(
            Finding("Low resolutions first train faster", "section 3.2", "loss", "low then high", "high only"),
            Finding(
                "At first, extrapolated positions give sharp pictures", "figure 9", "sharpness error", sharp, blurred
            ),
            Finding("At first, interpolated positions give no copies", "figure 9", "toy count error", blurred, sharp),
            Finding("Extrapolation is better in the end", "appendix A", "loss", "low then high", "interpolated"),
        ),
        evaluation=diffusion_evaluation(),
        limits=(
            f"The resolution rises from {LOW}x{LOW} to {SIDE}x{SIDE}: 2x2 to 4x4 patches. The first three arms have "
            "equal compute, but not equal steps."
        ),
    )
