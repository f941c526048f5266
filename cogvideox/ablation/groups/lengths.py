"""Lengths: Frame Pack, buckets of one length per row, one fixed length (paper section 3.1)."""

from cogvideox.ablation.arm import Ablation, Arm, Finding, Videos
from cogvideox.ablation.baselines import SIDE, STYLES, clips, diffusion, diffusion_evaluation, held_out
from cogvideox.dataset.config import ToyboxSource

TRAINED, UNSEEN, FIXED, LONGEST = (1, 5, 9, 17), 13, 9, 17


def lengths() -> Ablation:
    """Three ways to form the rows of a step, with the same token budget."""
    mixed = {"toybox": tuple(ToyboxSource(clips(frames), caption_styles=STYLES) for frames in TRAINED)}
    packed, bucketed, fixed = "frame pack", "buckets", "fixed length"
    return Ablation(
        name="lengths",
        question="Does training on packed clips of all lengths generalize better than buckets or one fixed length?",
        field="packing, toybox",
        equal=("parameters", "row budget", "steps"),
        arms=(
            Arm(packed, (diffusion(mixed),)),
            Arm(
                bucketed,
                (diffusion({**mixed, "packing": "buckets"}),),
                "rows are less full, so a step has fewer tokens",
            ),
            Arm(fixed, (diffusion(),), "all rows are full, so a step has more tokens"),
        ),
        findings=(
            Finding(
                "Training on one fixed length generalizes worse to other lengths",
                "section 3.1",
                f"loss, {UNSEEN} frames",
                packed,
                fixed,
            ),
            Finding(
                "A model trained on one length does not learn images", "section 3.1", "loss, images", packed, fixed
            ),
            Finding("Packing uses the same budget better than buckets", "section 3.1", "loss", packed, bucketed),
        ),
        evaluation=diffusion_evaluation(
            clips={
                "": held_out(FIXED),
                "images": held_out(1),
                f"{UNSEEN} frames": held_out(UNSEEN),
                f"{LONGEST} frames": held_out(LONGEST),
            },
            videos={
                "": Videos(FIXED, SIDE, SIDE),
                "images": Videos(1, SIDE, SIDE),
                f"{LONGEST} frames": Videos(LONGEST, SIDE, SIDE),
            },
        ),
        limits=(
            "Lengths are 1 to 17 frames. At an equal budget of the rows, a step has 3.4 % fewer tokens with buckets "
            "than with Frame Pack, and 1.7 % more with one length. The paper's claim that a model learns images and "
            "videos as two separate modes concerns joint training on images and videos of one length; here the fixed "
            "length has no images."
        ),
    )
