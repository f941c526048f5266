"""Caption, regenerate, compare (Appendix I): whether captions contain what is needed to generate the clip again.

Each caption of a folder of `cogvideox caption` is a prompt for a video model. The toybox judge reads the facts of the
original clip and of the generated video from their pixels; the score of a fact is the fraction of clips in which both
show the same. As a control, the original is also compared with the video of another clip's caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from cogvideox.curation.captions.captioned_folder import CaptionedClip
from cogvideox.curation.pipeline import sample_frames
from cogvideox.curation.signals.base import Sampling
from cogvideox.errors import UserError
from cogvideox.records import Score
from cogvideox.toybox.judge.core import read_facts
from cogvideox.toybox.judge.judge import fact_accuracies
from cogvideox.toybox.scenes.grammar import ObservedFacts

Generate = Callable[[str, int], UInt8[np.ndarray, "t h w 3"]]
"""Generates the frames of a prompt with a seed."""


@dataclass(frozen=True)
class Regeneration:
    """The facts of a clip, and of the video that was generated from its caption.

    Attributes:
        error: why there is no video; its facts then count as wrong.
    """

    clip: str
    caption: str
    original: ObservedFacts
    generated: ObservedFacts
    error: str | None = None


def regenerate(
    clips: Sequence[CaptionedClip],
    generate: Generate,
    fps: float,
    *,
    seed: int = 0,
    on_video: Callable[[Regeneration], Any] | None = None,
) -> list[Regeneration]:
    """Generate a video of each caption, and read the facts of both videos.

    Args:
        fps: frame rate of the generated videos, at which the original is read, too.
        seed: seed of the first video; video i has `seed + i`.

    Raises:
        UserError: a clip cannot be decoded.
    """
    results = []
    for index, clip in enumerate(clips):
        frames = sample_frames(clip.row, [Sampling(fps=fps, longest_side=None)])[0].frames
        generated, error = None, None
        try:
            generated = generate(clip.caption, seed + index)
        except UserError as problem:  # the caption is not a possible prompt
            error = str(problem)
        original = _facts(frames)
        shown = dict.fromkeys(original) if generated is None else _facts(generated)
        results.append(Regeneration(clip.clip, clip.caption, original, shown, error))
        if on_video is not None:
            on_video(results[-1])
    return results


def agreement(results: Sequence[Regeneration], shift: int = 0) -> dict[str, Score]:
    """Return for each fact the fraction of clips whose generated video shows the same, with 95 % intervals.

    Facts that cannot be read in the original are not counted; `all` counts clips with all facts right.

    Args:
        shift: compare each clip with the video of the clip `shift` positions later; 0 compares it with its own video.
    """
    verdicts = []
    for index, result in enumerate(results):
        shown = results[(index + shift) % len(results)].generated
        verdicts.append({name: shown[name] == word for name, word in result.original.items() if word is not None})
    return fact_accuracies(verdicts)


def _facts(frames: UInt8[np.ndarray, "t h w 3"]) -> ObservedFacts:
    return read_facts(torch.from_numpy(np.ascontiguousarray(frames))[None])[0]
