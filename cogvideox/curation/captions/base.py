"""Inputs, outputs and protocols of the captioning stages.

A stage reads frames (and, as hints for models, measured facts); it never reads the ground truth of rendered clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from cogvideox.curation.captions.facts import ClipFacts
from cogvideox.curation.signals.base import SampledFrames, Sampling


@dataclass(frozen=True, eq=False)
class CaptionInput:
    """A clip to caption.

    Attributes:
        id: content hash of the clip.
        frames: frames of the whole clip, by the samplings that the stages and measurements require.
        facts: measured facts of the clip.
        times: timestamps of the frames to caption, in seconds from the start of the clip.
        is_image: whether the clip is a still image.
    """

    id: str
    frames: Mapping[Sampling, SampledFrames] = field(repr=False)
    facts: ClipFacts
    times: tuple[float, ...]
    is_image: bool = False


@dataclass(frozen=True)
class Rejected:
    """A caption that failed the checks and the reason, passed to the retry so that it avoids the problem."""

    text: str
    reason: str


@dataclass(frozen=True)
class Draft:
    """A caption as written by a back-end, before the checks.

    Attributes:
        error: why there is no text; None on success.
        finish_reason: "length" if the text was cut off.
        prompt_tokens, completion_tokens: token counts of the model call.
        seconds: duration of the model call.
        cost: cost of the model call.
        cached: whether the response came from the cache.
    """

    text: str = ""
    error: str | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class TimedCaption:
    """A caption of one frame."""

    time: float
    text: str


@runtime_checkable
class Captioner(Protocol):
    """Protocol of back-ends that caption a whole clip, for the stages `short` and `direct`.

    Attributes:
        samplings: frame samplings that the captioner requires.
        can_retry: whether a retry can produce different text.
        identity: name of the model or method and hash of its weights; a changed identity invalidates stored captions.
    """

    can_retry: ClassVar[bool]

    @property
    def samplings(self) -> tuple[Sampling, ...]: ...

    @property
    def identity(self) -> str: ...

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        """Caption a clip."""
        ...


@runtime_checkable
class FrameCaptioner(Protocol):
    """Protocol of back-ends that caption one frame. For the attributes see `Captioner`."""

    can_retry: ClassVar[bool]

    @property
    def samplings(self) -> tuple[Sampling, ...]: ...

    @property
    def identity(self) -> str: ...

    def caption(self, clip: CaptionInput, time: float, rejected: Sequence[Rejected] = ()) -> Draft:
        """Caption the frame of a clip at a time in seconds."""
        ...


@runtime_checkable
class Summarizer(Protocol):
    """Protocol of back-ends that merge the short caption and the frame captions. See `Captioner` for the attributes."""

    can_retry: ClassVar[bool]

    @property
    def identity(self) -> str: ...

    def summarize(
        self, clip: CaptionInput, short: str | None, frames: Sequence[TimedCaption], rejected: Sequence[Rejected] = ()
    ) -> Draft:
        """Write the long caption."""
        ...
