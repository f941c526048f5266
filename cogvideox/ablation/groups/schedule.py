"""Noise schedule: zero terminal SNR and v-prediction, on and off (paper section 2.2)."""

from typing import Any

from cogvideox.ablation.arm import Ablation, Arm, Finding
from cogvideox.ablation.baselines import diffusion, diffusion_evaluation
from cogvideox.diffusion.config import ScheduleConfig

ZERO, NONZERO, EPSILON = "zero SNR, v", "nonzero SNR, v", "nonzero SNR, epsilon"


def schedule() -> Ablation:
    """The schedule of the 5B model with and without zero terminal SNR, and noise prediction."""

    def with_schedule(**changes: Any) -> Any:
        return diffusion({"schedule": ScheduleConfig(snr_shift_scale=1.0, **changes)})

    return Ablation(
        name="schedule",
        question="Do zero terminal SNR and v-prediction widen the range of brightness?",
        field="schedule",
        equal=("parameters", "tokens", "compute", "steps"),
        arms=(
            Arm(ZERO, (with_schedule(),)),
            Arm(NONZERO, (with_schedule(rescale_betas_zero_snr=False),)),
            Arm(
                EPSILON,
                (with_schedule(rescale_betas_zero_snr=False, prediction_type="epsilon"),),
                "noise prediction is undefined at zero terminal SNR",
            ),
        ),
        findings=(
            Finding("Zero terminal SNR widens the brightness range", "section 2.2", "brightness slope", ZERO, NONZERO),
            Finding("Brightness is closer to the prompt's", "section 2.2", "brightness error", ZERO, NONZERO),
            Finding("v-prediction is better than noise prediction", "section 2.2", "facts", NONZERO, EPSILON),
        ),
        # At the same timestep, the arms have different noise levels, and so losses that cannot be compared.
        evaluation=diffusion_evaluation(clips={}),
        limits=(
            "The paper adopts both after Lin et al. (2023), without an ablation of its own. There is no validation "
            "loss: at the same timestep, each schedule has another noise level. For this reason, the chart and the "
            "variance of the training loss do not compare the arms, either."
        ),
    )
