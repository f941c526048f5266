"""Captions: short, long, or both (paper section 3.4)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding, Videos
from cogvideox.ablation.baselines import NUM_FRAMES, SIDE, clips, diffusion, diffusion_evaluation
from cogvideox.dataset.config import CaptionStyle, ToyboxSource

ARMS: dict[str, tuple[CaptionStyle, ...]] = {"long": ("dense",), "short": ("short",), "both": ("short", "dense")}


def captions() -> Ablation:
    """Three sets of caption styles."""
    return Ablation(
        name="captions",
        question="Do long captions teach more than short ones, and does training on both teach the most?",
        field="toybox.caption_styles",
        equal=("parameters", "tokens", "compute", "steps"),
        arms=tuple(
            Arm(name, (diffusion({"toybox": (ToyboxSource(clips(), caption_styles=styles),)}),))
            for name, styles in ARMS.items()
        ),
        findings=(
            Finding(
                "Long captions teach the model to follow prompts that name all facts",
                "section 3.4",
                "facts",
                "long",
                "short",
            ),
            Finding("Long captions help with long prompts", "section 3.4", "facts, long prompts", "long", "short"),
            Finding(
                "Training on both does better on short prompts", "section 3.4", "facts, short prompts", "both", "long"
            ),
        ),
        evaluation=diffusion_evaluation(
            videos={
                "": Videos(NUM_FRAMES, SIDE, SIDE),
                "long prompts": Videos(NUM_FRAMES, SIDE, SIDE, "dense"),
                "short prompts": Videos(NUM_FRAMES, SIDE, SIDE, "short"),
            }
        ),
        limits="Captions of the built-in world are exact. The paper's come from models and have errors.",
    )
