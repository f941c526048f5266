"""Captions of toybox clips from the facts that the toybox judge predicts from pixels.

They test the captioning pipeline with correct frame captions. The scene's ground truth is not used.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected
from cogvideox.curation.captions.frame_times import frame_at
from cogvideox.curation.signals.base import Sampling

SAMPLING = Sampling(fps=8.0, longest_side=None)


class ToyboxCaptioner:
    """Back-end that captions a clip with color, shape, size, motion and background. See `base.Captioner`."""

    can_retry: ClassVar[bool] = False
    identity = "toybox 1"
    samplings = (SAMPLING,)

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        return Draft(describe_reading(read(clip.frames[SAMPLING].frames)))


class ToyboxFrameCaptioner:
    """Back-end that captions a frame, without motion. See `base.FrameCaptioner`."""

    can_retry: ClassVar[bool] = False
    identity = "toybox frames 1"
    samplings = (SAMPLING,)

    def caption(self, clip: CaptionInput, time: float, rejected: Sequence[Rejected] = ()) -> Draft:
        sampled = clip.frames[SAMPLING]
        index = frame_at(sampled, time)
        return Draft(describe_reading(read(sampled.frames[index : index + 1])))


def read(frames: np.ndarray) -> dict[str, str | None]:
    """Return the facts that the judge of the core grammar predicts from frames [t h w 3]."""
    import torch

    from cogvideox.toybox.judge.core import read_facts

    return read_facts(torch.from_numpy(np.ascontiguousarray(frames))[None])[0]


def describe_reading(facts: dict[str, str | None]) -> str:
    """Describe the predicted facts in one sentence."""
    words = [facts[name] for name in ("size", "color", "shape") if facts.get(name)]
    subject = " ".join(["a", *(word for word in words if word)]) if facts.get("shape") else None
    if subject is None:
        subject = " ".join(["a", *(word for word in words if word), "toy"])
    motion = facts.get("motion")
    verb = ""
    if motion == "still":
        verb = " stays still"
    elif motion in ("left", "right"):
        verb = f" moves to the {motion}"
    elif motion:
        verb = f" moves {motion}"
    floor = f" on a {facts['background']} floor" if facts.get("background") else ""
    return f"{subject[0].upper()}{subject[1:]}{verb}{floor}."
