"""Positions: 3D-RoPE, fixed sinusoidal positions, learned positions (paper section 2.2, figures 8 and 10)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding
from cogvideox.ablation.baselines import diffusion, diffusion_evaluation

ROTARY, LEARNED = "transformer.use_rotary_positional_embeddings", "transformer.use_learned_positional_embeddings"


def positions() -> Ablation:
    """Three kinds of positional embeddings; the learned ones add 72 vectors."""
    return Ablation(
        name="positions",
        question=(
            "Does a model with rotary embeddings in time, height and width learn faster than one with absolute "
            "embeddings?"
        ),
        field="transformer.use_*_positional_embeddings",
        equal=("parameters", "tokens", "compute", "steps"),
        arms=(
            Arm("3D-RoPE", (diffusion(),)),
            Arm("sincos", (diffusion({ROTARY: False}),)),
            Arm("learned", (diffusion({ROTARY: False, LEARNED: True}),)),
        ),
        findings=(
            Finding("The loss with 3D-RoPE falls faster than with sincos", "figure 8", "loss", "3D-RoPE", "sincos"),
            Finding(
                "Generated videos get more facts right with 3D-RoPE than with sincos",
                "figure 10 (FVD)",
                "facts",
                "3D-RoPE",
                "sincos",
            ),
        ),
        evaluation=diffusion_evaluation(),
        limits="A clip has 48 video tokens, so few positions have to be told apart.",
    )
