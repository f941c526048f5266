"""Modulation: expert adaptive LayerNorm, one shared, separate streams (paper section 2.2, figures 8 and 10)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding
from cogvideox.ablation.baselines import diffusion, diffusion_evaluation, transformer
from cogvideox.training.diffusion.parameter_matching import match_parameters
from cogvideox.transformer.config import TransformerConfig


def modulation() -> Ablation:
    """Weights of a block that text and video have separately, at equal parameters."""
    expert = transformer()

    def matched(name: str, variant: TransformerConfig) -> Arm:
        config = match_parameters(variant, expert)
        sizes = f"{config.num_attention_heads} heads and an MLP width of {config.mlp_width}"
        instead = f"{expert.num_attention_heads} and {expert.mlp_width}"
        return Arm(name, (diffusion({"transformer": config}),), f"{sizes} instead of {instead}, for equal parameters")

    names = "expert", "shared", "separate streams"
    return Ablation(
        name="modulation",
        question="Does expert adaptive LayerNorm learn better than a shared one, and than separate streams?",
        field="transformer.separate_weights",
        equal=("parameters", "tokens", "steps"),
        arms=(
            Arm(names[0], (diffusion(),)),
            matched(names[1], transformer(separate_weights="none")),
            matched(names[2], transformer(separate_weights="all")),
        ),
        findings=(
            Finding("The loss is lower than without expert modulation", "figure 8", "loss", names[0], names[1]),
            Finding("The loss is lower than MMDiT's of equal size", "figure 8", "loss", names[0], names[2]),
            Finding("Prompts are followed better than without", "figure 10 (CLIP4Clip)", "facts", names[0], names[1]),
            Finding("Prompts are followed better than by MMDiT", "figure 10 (CLIP4Clip)", "facts", names[0], names[2]),
        ),
        evaluation=diffusion_evaluation(),
        limits=(
            "The text encoder is small, so that the features of text and video differ less than with T5-XXL. At equal "
            "parameters and steps, compute is not equal: relative to the baseline, 1.23 with shared modulation, and "
            "0.58 with separate streams, whose weights are each used for a part of the tokens."
        ),
    )
