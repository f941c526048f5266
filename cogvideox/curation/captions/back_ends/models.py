"""Captioning back-ends that call a chat model, local or behind an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from cogvideox.curation.captions.back_ends.prompts import Prompt, hints, retry_prompt
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected
from cogvideox.curation.captions.frame_times import frame_at
from cogvideox.curation.signals.base import SampledFrames, Sampling
from cogvideox.llm.chat import ChatRequest, Frame, Message
from cogvideox.llm.chat import Sampling as Decoding
from cogvideox.llm.client import Client

MAX_SHOWN = 1_000
"""Maximum number of characters of a rejected caption that are included in the retry prompt."""


@dataclass(frozen=True)
class ModelBackEnd:
    """Base class of the back-ends that call a chat model.

    Attributes:
        max_words: word limit stated in the prompt.
        longest_side: longest side of the frames sent to the model, in pixels.
        num_frames: number of evenly spaced frames sent for a caption of the whole clip.
        use_hints: whether to add measured facts to prompts with frames.
    """

    client: Client
    prompt: Prompt
    decoding: Decoding
    max_words: int = 100
    longest_side: int = 768
    num_frames: int = 8
    use_hints: bool = True

    can_retry: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        """See `base.Captioner`."""
        sides = f"{self.longest_side} {self.num_frames} {self.use_hints}"
        return f"{self.client.model.model_id} {self.prompt} {self.decoding} {self.max_words} {sides}"

    def ask(self, clip: CaptionInput, content: Sequence[str | Frame], rejected: Sequence[Rejected]) -> Draft:
        """Send the prompt with the content; on a retry, add the last rejected caption and the reason."""
        instruction = self.prompt.text.replace("{words}", str(self.max_words))
        messages = [Message("user", (instruction + "\n\n", *content) if content else (instruction,))]
        for attempt in rejected[-1:]:
            messages.append(Message("assistant", (attempt.text[:MAX_SHOWN],)))
            messages.append(Message("user", (retry_prompt(attempt, self.max_words),)))
        decoding = self.decoding
        if rejected:  # greedy decoding would repeat the rejected caption
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
        """Encode a frame for the request."""
        from cogvideox.video.jpeg import encode_jpeg

        time = float(sampled.times[index])
        key = f"{clip.id} {time:.3f} s {self.longest_side}" if clip.id else ""
        return Frame(encode_jpeg(sampled.frames[index], self.longest_side), time if timed else None, key)

    def facts(self, clip: CaptionInput) -> list[str]:
        """Return the measured facts as message content; empty without hints."""
        text = hints(clip.facts) if self.use_hints else ""
        return [f"\nMeasurements, which may be wrong: <data>{text}</data>"] if text else []


class ModelCaptioner(ModelBackEnd):
    """Back-end that captions a clip from several frames, for the stages `short` and `direct`."""

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=self.longest_side),)

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        """See `base.Captioner`."""
        sampled = clip.frames[self.samplings[0]]
        frames = [self.show(clip, sampled, index, not clip.is_image) for index in range(len(sampled.frames))]
        return self.ask(clip, [*frames, *self.facts(clip)], rejected)


class ModelFrameCaptioner(ModelBackEnd):
    """Back-end that captions one frame with a vision-language model."""

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(fps=2.0, longest_side=self.longest_side),)

    def caption(self, clip: CaptionInput, time: float, rejected: Sequence[Rejected] = ()) -> Draft:
        """See `base.FrameCaptioner`."""
        sampled = clip.frames[self.samplings[0]]
        return self.ask(clip, [self.show(clip, sampled, frame_at(sampled, time), False), *self.facts(clip)], rejected)
