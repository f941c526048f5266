"""Similarity of a video and its prompt by CLIP, in place of CLIP4Clip in the paper's ablations.

CLIP4Clip (Luo et al. 2021) fine-tunes CLIP on videos; without its weights, the similarities of up to twelve evenly
spaced frames and the prompt are averaged, so the numbers are not comparable with those of the paper. Prompts are
truncated to the number of tokens that CLIP reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cogvideox.errors import UserError
from cogvideox.evaluation.plugins import Plugin
from cogvideox.evaluation.scorer import Item, Measurement, Metric, Ratio, VideoFile

NUM_FRAMES = 12
"""Number of frames that CLIP4Clip reads."""


@dataclass(frozen=True)
class TextSimilarity:
    """Scorer of the mean similarity of frames and prompt.

    Attributes:
        model: a model of the role `text`.
    """

    model: Plugin
    name: str = "clip"
    groups: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = (
        Metric(
            "clip/text_similarity", Ratio("similarity"), "cosine of frames and prompt, mean", per_video="similarity"
        ),
    )

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        return {**self.model.settings(), "frames": NUM_FRAMES, "version": 1}

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Load the model."""
        compare = self.model.open()

        def measure(file: VideoFile, item: Item) -> Measurement:
            if not item.prompt:
                raise UserError(f"{file.path} has no prompt to compare it with")
            frames = file.video.frames
            chosen = np.linspace(0, len(frames) - 1, min(len(frames), NUM_FRAMES)).round().astype(int)
            return {"similarity": round(float(compare(frames[chosen], item.prompt).mean()), 6)}

        return measure
