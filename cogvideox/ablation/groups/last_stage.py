"""Last stage: on the best fifth of the clips, on all clips, or none (paper section 3.2)."""

from typing import Any

from cogvideox.ablation.arm import DATA, PREVIOUS, Ablation, Arm, Finding, OverlayClips
from cogvideox.ablation.baselines import SIDE, diffusion, diffusion_evaluation
from cogvideox.dataset.mixture import DataSource
from cogvideox.filter_policy.policy import Bound, Policy

CLIPS = OverlayClips(num_clips=1_500, side=SIDE, overlay_probability=0.8)


def last_stage() -> Ablation:
    """From the shipped model: a stage on clips with overlays, then a short stage at a lower learning rate."""
    shared: dict[str, Any] = {"transformer": None, "toybox": (), "data": (DataSource(f"{DATA}/store"),)}
    first = diffusion({**shared, "optim.lr": 1e-3, "run.num_steps": 1_000})
    last = {**shared, "model": PREVIOUS, "optim.lr": 3e-4, "run.num_steps": 500}
    best = diffusion({**last, "policy": Policy((Bound("quality", best=0.2),))})
    return Ablation(
        name="last-stage",
        question="Does a last stage on the best fifth of the clips remove overlays, and at what cost?",
        field="policy",
        equal=("parameters", "tokens"),
        arms=(
            Arm("best fifth", (first, best)),
            Arm("all clips", (first, diffusion(last))),
            Arm("no last stage", (first,), "its training is shorter by the steps of the last stage"),
        ),
        findings=(
            Finding("The last stage removes overlays", "section 3.2", "overlay", "best fifth", "no last stage"),
            Finding("The selection does, not the steps", "section 3.2", "overlay", "best fifth", "all clips"),
            Finding("Semantics get slightly worse", "section 3.2", "facts", "no last stage", "best fifth"),
        ),
        evaluation=diffusion_evaluation(),
        limits=(
            "The first stage does not start from scratch but from the shipped model of 3.46 M parameters, which was "
            "trained without overlays. Quality is a noisy score of the overlay only."
        ),
        data=CLIPS,
    )
