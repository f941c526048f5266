"""Timesteps: explicit uniform sampling over all clips of a step, over ranks, or random (paper section 3.3)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding
from cogvideox.ablation.baselines import diffusion, diffusion_evaluation
from cogvideox.ablation.scores.metrics import TIMESTEPS

NUM_RANKS = 4
TABLE_9 = ((0.216, 0.222), (0.126, 0.130), (0.116, 0.119), (0.129, 0.133), (0.157, 0.161))
"""The paper's validation losses at `TIMESTEPS`, with explicit uniform sampling and without."""
ALL, RANKS, RANDOM = "strata of all clips", f"strata of {NUM_RANKS} ranks", "random"


def timesteps() -> Ablation:
    """Three ways to sample timesteps."""
    ranks = {"timestep_sampling": "explicit_uniform_ranks", "timestep_ranks": NUM_RANKS}
    return Ablation(
        name="timesteps",
        question="Does explicit uniform sampling of timesteps make the loss smoother and lower?",
        field="timestep_sampling",
        equal=("parameters", "tokens", "compute", "steps"),
        arms=(
            Arm(ALL, (diffusion(),)),
            Arm(RANKS, (diffusion(ranks),)),
            Arm(RANDOM, (diffusion({"timestep_sampling": "random"}),)),
        ),
        findings=(
            Finding("The loss is smoother with an interval per rank", "figure 8", "loss variance", RANKS, RANDOM),
            Finding("It is smoother with an interval per clip, too", "section 3.3", "loss variance", ALL, RANDOM),
            *(
                Finding(
                    f"Loss at t = {t}: {with_strata} instead of {without}", "table 9", f"loss at {t}", RANKS, RANDOM
                )
                for t, (with_strata, without) in zip(TIMESTEPS, TABLE_9, strict=True)
            ),
        ),
        evaluation=diffusion_evaluation(),
        limits="A step has 32 clips instead of 1,000 and more, and the ranks are simulated by the rows of the step.",
    )
