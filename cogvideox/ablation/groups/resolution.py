"""Resolution: low then high, or high from the start; positions extrapolated or interpolated (section 3.2, figure 9)."""

from typing import Any

from cogvideox.ablation.arm import PREVIOUS, Ablation, Arm, Finding
from cogvideox.ablation.baselines import SIDE, STYLES, clips, diffusion, diffusion_evaluation
from cogvideox.dataset.config import ToyboxSource
from cogvideox.training.diffusion.config import DiffusionTraining

LOW = 32
NUM_STEPS, FIRST_STEPS = 3_000, 60


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

    def high(num_steps: int, rule: str) -> DiffusionTraining:
        changes: dict[str, Any] = {"model": PREVIOUS, "transformer": None, "position_rule": rule}
        return diffusion({**changes, "run.num_steps": num_steps})

    rest, at_first = NUM_STEPS - NUM_STEPS // 2, "the second stage is short: the first samples at the new resolution"
    sharp, blurred = "extrapolated, at first", "interpolated, at first"
    return Ablation(
        name="resolution",
        question="Is training at a low resolution first better at equal compute, and with which positions?",
        field="stages, position_rule",
        equal=("parameters", "tokens"),
        arms=(
            Arm("low then high", (low, high(rest, "slice"))),
            Arm("interpolated", (low, high(rest, "resize_crop"))),
            Arm("high only", (diffusion({"run.num_steps": NUM_STEPS}),), "as many steps as both stages together"),
            Arm(sharp, (low, high(FIRST_STEPS, "slice")), at_first),
            Arm(blurred, (low, high(FIRST_STEPS, "resize_crop")), at_first),
        ),
        findings=(
            Finding("Low resolutions first train faster", "section 3.2", "loss", "low then high", "high only"),
            Finding("At first, extrapolated positions give sharp pictures", "figure 9", "sharpness", sharp, blurred),
            Finding("At first, interpolated positions give no copies", "figure 9", "toys", blurred, sharp),
            Finding("Extrapolation is better in the end", "appendix A", "loss", "low then high", "interpolated"),
        ),
        evaluation=diffusion_evaluation(),
        limits=f"The resolution rises from {LOW}x{LOW} to {SIDE}x{SIDE}: 2x2 to 4x4 patches.",
    )
