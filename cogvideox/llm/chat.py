"""Chat requests and answers, and the protocol of chat models.

A request identifies its frames by clip and index, so that its cache key does not depend on the encoding of the frames.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from cogvideox.config import check_minimum
from cogvideox.errors import UserError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Frame:
    """A frame of a clip, as JPEG.

    Attributes:
        time: seconds from the start of the clip; None for an image.
        jpeg: encoded image; endpoints that receive images also accept PNG.
        key: identity of the frame in the cache key (clip id, time, size); empty uses a hash of the JPEG.
    """

    jpeg: bytes = field(repr=False)
    time: float | None = None
    key: str = ""

    @property
    def identity(self) -> str:
        """Identity of the frame in the cache key."""
        return self.key or hashlib.sha256(self.jpeg).hexdigest()


@dataclass(frozen=True)
class Message:
    """One message of a conversation: text and frames in order."""

    role: Role
    parts: tuple[str | Frame, ...]


@dataclass(frozen=True)
class Sampling:
    """Decoding parameters.

    Attributes:
        temperature: sampling temperature; 0 is greedy decoding.
        max_tokens: maximum number of completion tokens.
        top_p: probability mass of nucleus sampling.
        seed: sampling seed; None leaves the seed to the model.
    """

    temperature: float = 0.0
    max_tokens: int = 256
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_minimum(self, temperature=0, max_tokens=1)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")


@dataclass(frozen=True)
class ChatRequest:
    """A request to a chat model.

    Attributes:
        messages: messages of the conversation.
        prompt_id, prompt_version: name and version of the prompt; increase the version when the text changes.
        clip: content hash of the clip; empty for a request without a clip.
        frame_indices: indices of the frames in the clip.
        sampling: decoding parameters.
        schema: JSON schema of the answer; None for plain text.
    """

    messages: tuple[Message, ...]
    prompt_id: str
    prompt_version: int = 1
    clip: str = ""
    frame_indices: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    schema: Mapping[str, Any] | None = None

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Frames of all messages, in order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Frame))

    def description(self) -> dict[str, Any]:
        """Return the request as JSON values, with frames replaced by their identity."""
        return {
            "prompt": [self.prompt_id, self.prompt_version],
            "clip": self.clip,
            "frames": list(self.frame_indices),
            "parameters": asdict(self.sampling),
            "schema": self.schema,
            "messages": [
                [
                    message.role,
                    [part if isinstance(part, str) else [part.identity, part.time] for part in message.parts],
                ]
                for message in self.messages
            ],
        }

    def key(self, model_id: str) -> str:
        """Return the cache key: a hash of the model, the parameters, the prompt, the clip, the frames and the text."""
        text = json.dumps([model_id, self.description()], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        text: content of the answer; empty on error.
        raw: raw response body.
        model: model name reported by the server.
        prompt_tokens, completion_tokens: token counts.
        finish_reason: "stop", "length" (cut off at `max_tokens`), "content_filter", ...; empty if unknown.
        seconds: duration of the last call.
        attempts: number of calls, including retries.
        cost: cost in the currency of the model's prices; 0 if the model has no prices.
        error: why there is no answer; None on success.
        final: whether the error is stored, so that later runs do not repeat the call.
        cached: whether the answer came from the cache.
        free: whether the server rejected the request, so that it was certainly not charged.
    """

    text: str = ""
    raw: str = field(default="", repr=False)
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    seconds: float = 0.0
    attempts: int = 1
    cost: float = 0.0
    error: str | None = None
    final: bool = True
    cached: bool = False
    free: bool = False


class RetryableError(Exception):
    """A call failed, but a retry may succeed: overload, broken connection, server restart.

    Attributes:
        wait: seconds to wait, as requested by the server; None if not specified.
        unavailable: whether the server was unreachable, so that the call was certainly not processed.
        unanswered: whether the server received the request but did not answer in time or completely, so that it may
            have been charged.
    """

    def __init__(
        self, reason: str, wait: float | None = None, unavailable: bool = False, unanswered: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait, self.unavailable, self.unanswered = wait, unavailable, unanswered


@runtime_checkable
class ChatModel(Protocol):
    """A chat model; `complete` may be called from up to `concurrency` threads at once.

    Attributes:
        model_id: identity of the model in cache keys; for local models, includes a hash of the weights.
        concurrency: maximum number of concurrent requests.
    """

    @property
    def model_id(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    def complete(self, request: ChatRequest) -> Answer:
        """Answer one request.

        If the answer is unusable but may have been charged, `Answer.error` is set instead of raising.

        Raises:
            RetryableError: a retry may succeed.
            UserError: no request can succeed, for example because of a wrong key or an unknown model.
        """
        ...

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of a call."""
        ...

    def close(self) -> None:
        """Free connections and memory."""
        ...
