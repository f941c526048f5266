"""What the rungs of the caption ladder get and return, and their protocols.

A rung reads frames (and, as hints for models, measurements of them); it never sees the record of a renderer.
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
        frames: frames of the whole clip, for the samplings that the rungs and measurements need.
        facts: measurements of the clip.
        times: seconds from the start of the clip of the frames to caption.
    """

    id: str
    frames: Mapping[Sampling, SampledFrames] = field(repr=False)
    facts: ClipFacts
    times: tuple[float, ...]
    is_image: bool = False


@dataclass(frozen=True)
class Rejected:
    """A caption that failed the checks, and why; the next attempt is asked to avoid it."""

    text: str
    reason: str


@dataclass(frozen=True)
class Draft:
    """A caption as written by a back-end, before the checks.

    Attributes:
        error: why there is no text; None if there is one.
        finish_reason: "length" if the text was cut off.
        cached: whether no model was called.
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
    """Writes a caption of a whole clip: the short caption, or the long one of an end-to-end captioner.

    Attributes:
        samplings: frames that it needs.
        repairs: whether another attempt can give another text.
        identity: name of the model or method and hash of its weights; other values are other captions.
    """

    repairs: ClassVar[bool]

    @property
    def samplings(self) -> tuple[Sampling, ...]: ...

    @property
    def identity(self) -> str: ...

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        """Caption a clip."""
        ...


@runtime_checkable
class FrameCaptioner(Protocol):
    """Writes a caption of one frame. For the attributes see `Captioner`."""

    repairs: ClassVar[bool]

    @property
    def samplings(self) -> tuple[Sampling, ...]: ...

    @property
    def identity(self) -> str: ...

    def caption(self, clip: CaptionInput, time: float, rejected: Sequence[Rejected] = ()) -> Draft:
        """Caption the frame of a clip at a time in seconds."""
        ...


@runtime_checkable
class Summarizer(Protocol):
    """Merges the short caption and the captions of frames. For the attributes see `Captioner`."""

    repairs: ClassVar[bool]

    @property
    def identity(self) -> str: ...

    def summarize(
        self, clip: CaptionInput, short: str | None, frames: Sequence[TimedCaption], rejected: Sequence[Rejected] = ()
    ) -> Draft:
        """Write the long caption."""
        ...


def frame_at(sampled: SampledFrames, time: float) -> int:
    """Return the index of the frame that is shown at a time in seconds from the start of the clip."""
    return max(0, int((sampled.times <= time + 1e-6).sum()) - 1)
