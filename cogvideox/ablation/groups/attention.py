"""Attention: 3D full, or 2D in space and 1D in time (paper section 2.2, figure 10)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding, Videos
from cogvideox.ablation.baselines import (
    CLIPS_PER_ROW,
    SIDE,
    STYLES,
    clips,
    diffusion,
    diffusion_evaluation,
    held_out,
    num_tokens,
)
from cogvideox.dataset.config import ToyboxSource

FRAMES = 17


def attention() -> Ablation:
    """Two kinds of attention on clips of two seconds."""
    base = {
        "toybox": (ToyboxSource(clips(FRAMES), caption_styles=STYLES),),
        "target.num_frames": FRAMES,
        "transformer.sample_frames": FRAMES,
        "row_tokens": CLIPS_PER_ROW // 2 * num_tokens(FRAMES),
    }
    full, factorized = "3D full", "2D+1D"
    return Ablation(
        name="attention",
        question="Does attention over all tokens of a clip generate motion better than 2D+1D attention?",
        field="transformer.attention",
        equal=("parameters", "tokens", "steps"),
        arms=(
            Arm(full, (diffusion(base),)),
            Arm(factorized, (diffusion({**base, "transformer.attention": "factorized"}),)),
        ),
        findings=(
            Finding("2D+1D attention has a worse FVD early in training", "figure 10", "loss", full, factorized),
            Finding("Large motions are less consistent with 2D+1D", "section 2.2", "consistency", full, factorized),
            Finding("Motions are right more often with 3D full", "section 2.2", "motion", full, factorized),
        ),
        evaluation=diffusion_evaluation(clips={"": held_out(FRAMES)}, videos={"": Videos(FRAMES, SIDE, SIDE)}),
        limits="FVD needs features of a video network, so the loss and the judged facts replace it.",
    )
