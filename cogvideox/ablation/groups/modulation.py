"""Modulation: expert adaptive LayerNorm, one shared modulation, separate streams (paper section 2.2, figure 10)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding
from cogvideox.ablation.baselines import diffusion, diffusion_evaluation, transformer
from cogvideox.transformer.parameter_matching import match_parameters


def modulation() -> Ablation:
    """Weights of a block that text and video have separately, at equal parameters."""
    expert = transformer()
    shared = match_parameters(transformer(separate_weights="none"), expert)
    separate = match_parameters(transformer(separate_weights="all"), expert)
    kept_equal = "transformer.ffn_dim is {} instead of {}, for equal parameters"
    return Ablation(
        name="modulation",
        question="Does expert adaptive LayerNorm learn better than a shared one, and than separate streams?",
        field="transformer.separate_weights",
        equal=("parameters", "tokens", "steps"),
        arms=(
            Arm("expert", (diffusion(),)),
            Arm(
                "shared",
                (diffusion({"transformer": shared}),),
                kept_equal.format(shared.mlp_width, expert.mlp_width),
            ),
            Arm(
                "separate streams",
                (diffusion({"transformer": separate}),),
                kept_equal.format(separate.mlp_width, expert.mlp_width),
            ),
        ),
        findings=(
            Finding("Its loss is lower than without expert modulation", "figure 10", "loss", "expert", "shared"),
            Finding(
                "Its loss is lower than MMDiT's at equal parameters", "figure 10", "loss", "expert", "separate streams"
            ),
            Finding("It follows prompts better than without", "figure 10 (CLIP4Clip)", "facts", "expert", "shared"),
            Finding(
                "It follows prompts better than MMDiT", "figure 10 (CLIP4Clip)", "facts", "expert", "separate streams"
            ),
        ),
        evaluation=diffusion_evaluation(),
        limits="The text encoder is small, so that the features of text and video differ less than with T5-XXL.",
    )
