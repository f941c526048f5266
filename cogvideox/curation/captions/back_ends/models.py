"""Back-ends that call a chat model, local or behind an endpoint, and a summary by rules without one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from cogvideox.curation.captions.back_ends.prompts import Prompt, hints, repair_request, summary_material
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected, TimedCaption, frame_at
from cogvideox.curation.signals.base import SampledFrames, Sampling
from cogvideox.llm.chat import ChatRequest, Frame, Message
from cogvideox.llm.chat import Sampling as Decoding
from cogvideox.llm.client import Client

MAX_SHOWN = 1_000
"""Longest part of a rejected answer that is shown to the model again, in characters."""


@dataclass(frozen=True)
class ModelRung:
    """What the rungs with a model have in common.

    Attributes:
        max_words: named in the prompt.
        longest_side: of the frames that are sent, in pixels.
        num_frames: frames of the clip that are sent, evenly spaced; for captions of a whole clip.
        use_hints: whether measured facts are added to prompts with frames.
    """

    client: Client
    prompt: Prompt
    decoding: Decoding
    max_words: int = 100
    longest_side: int = 768
    num_frames: int = 8
    use_hints: bool = True

    repairs: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        """See `base.Captioner`."""
        sides = f"{self.longest_side} {self.num_frames} {self.use_hints}"
        return f"{self.client.model.model_id} {self.prompt} {self.decoding} {self.max_words} {sides}"

    def ask(self, clip: CaptionInput, content: Sequence[str | Frame], rejected: Sequence[Rejected]) -> Draft:
        """Send the prompt with the content, and the last rejected answer with the reason."""
        instruction = self.prompt.text.replace("{words}", str(self.max_words))
        messages = [Message("user", (instruction + "\n\n", *content) if content else (instruction,))]
        for attempt in rejected[-1:]:
            messages.append(Message("assistant", (attempt.text[:MAX_SHOWN],)))
            messages.append(Message("user", (repair_request(attempt, self.max_words),)))
        decoding = self.decoding
        if rejected:  # greedy decoding would give the same answer again
            temperature = max(decoding.temperature, min(1.0, 0.4 * len(rejected)))
            decoding = replace(decoding, temperature=temperature, seed=len(rejected))
        request = ChatRequest(tuple(messages), self.prompt.id, self.prompt.version, clip.id, sampling=decoding)
        answer = self.client.ask(request)
        return Draft(
            " ".join(answer.text.split()) if answer.error is None else "",
            answer.error,
            answer.finish_reason,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.seconds,
            answer.cost,
            answer.cached,
        )

    def show(self, clip: CaptionInput, sampled: SampledFrames, index: int, timed: bool) -> Frame:
        """Return a frame as it is sent."""
        from cogvideox.video.jpeg import encode_jpeg

        time = float(sampled.times[index])
        key = f"{clip.id} {time:.3f} s {self.longest_side}" if clip.id else ""
        return Frame(encode_jpeg(sampled.frames[index], self.longest_side), time if timed else None, key)

    def facts(self, clip: CaptionInput) -> list[str]:
        """Return the hints as content."""
        text = hints(clip.facts) if self.use_hints else ""
        return [f"\nMeasurements, which may be wrong: <data>{text}</data>"] if text else []


class ModelCaptioner(ModelRung):
    """A caption of the clip from several frames: the short caption, or that of an end-to-end captioner."""

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=self.longest_side),)

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        """See `base.Captioner`."""
        sampled = clip.frames[self.samplings[0]]
        frames = [self.show(clip, sampled, index, not clip.is_image) for index in range(len(sampled.frames))]
        return self.ask(clip, [*frames, *self.facts(clip)], rejected)


class ModelFrameCaptioner(ModelRung):
    """A caption of one frame by a vision-language model."""

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(fps=2.0, longest_side=self.longest_side),)

    def caption(self, clip: CaptionInput, time: float, rejected: Sequence[Rejected] = ()) -> Draft:
        """See `base.FrameCaptioner`."""
        sampled = clip.frames[self.samplings[0]]
        return self.ask(clip, [self.show(clip, sampled, frame_at(sampled, time), False), *self.facts(clip)], rejected)


class ModelSummarizer(ModelRung):
    """A summary by a language model."""

    def summarize(
        self, clip: CaptionInput, short: str | None, frames: Sequence[TimedCaption], rejected: Sequence[Rejected] = ()
    ) -> Draft:
        """See `base.Summarizer`."""
        return self.ask(clip, [summary_material(short, frames, clip.facts)], rejected)


class RulesSummarizer:
    """The first caption, then what is new in each of the others. See `base.Summarizer`."""

    repairs: ClassVar[bool] = False
    identity = "rules 1"
    max_words = 100

    def summarize(
        self, clip: CaptionInput, short: str | None, frames: Sequence[TimedCaption], rejected: Sequence[Rejected] = ()
    ) -> Draft:
        words: list[str] = []
        said: set[str] = set()
        for text in ([] if short is None else [short]) + [frame.text for frame in frames]:
            for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
                phrases = [phrase for phrase in sentence.rstrip(".").split(", ") if phrase.lower() not in said]
                said |= {phrase.lower() for phrase in phrases}
                added = ", ".join(phrases).split()
                if added and len(words) + len(added) <= self.max_words:
                    added[0] = added[0][0].upper() + added[0][1:]
                    added[-1] += "" if added[-1][-1] in ".!?" else "."
                    words += added
        return Draft(" ".join(words))
