"""Summary back-ends: merge the short caption and the frame captions with a language model or by rules."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cogvideox.curation.captions.back_ends.models import ModelBackEnd
from cogvideox.curation.captions.back_ends.prompts import summary_material
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected, TimedCaption


class ModelSummarizer(ModelBackEnd):
    """Back-end that merges captions with a language model."""

    def summarize(
        self, clip: CaptionInput, short: str | None, frames: Sequence[TimedCaption], rejected: Sequence[Rejected] = ()
    ) -> Draft:
        """See `base.Summarizer`."""
        return self.ask(clip, [summary_material(short, frames, clip.facts)], rejected)


@dataclass(frozen=True)
class RulesSummarizer:
    """Back-end that merges captions by rules: the first caption, then new phrases of later ones."""

    max_words: int = 100

    can_retry: ClassVar[bool] = False
    identity: ClassVar[str] = "rules 1"

    def summarize(
        self, clip: CaptionInput, short: str | None, frames: Sequence[TimedCaption], rejected: Sequence[Rejected] = ()
    ) -> Draft:
        words: list[str] = []
        seen: set[str] = set()
        for text in ([] if short is None else [short]) + [frame.text for frame in frames]:
            for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
                phrases = [phrase for phrase in sentence.rstrip(".").split(", ") if phrase.lower() not in seen]
                seen |= {phrase.lower() for phrase in phrases}
                added = ", ".join(phrases).split()
                if added and len(words) + len(added) <= self.max_words:
                    added[0] = added[0][0].upper() + added[0][1:]
                    added[-1] += "" if added[-1][-1] in ".!?" else "."
                    words += added
        return Draft(" ".join(words))
