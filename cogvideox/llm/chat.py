"""Requests to chat models and their answers.

A request names the clip and frames that it shows, so that its cache key does not depend on how frames are encoded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from cogvideox.errors import UserError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Frame:
    """A frame of a clip, as JPEG.

    Attributes:
        time: seconds from the start of the clip; None for an image.
        key: identifies the picture in the cache key: clip id, frame index and size; if empty, a hash of the JPEG does.
    """

    jpeg: bytes = field(repr=False)
    time: float | None = None
    key: str = ""

    @property
    def identity(self) -> str:
        """What stands for the picture in the cache key."""
        return self.key or hashlib.sha256(self.jpeg).hexdigest()


@dataclass(frozen=True)
class Message:
    """One message of a conversation: text and frames in order."""

    role: Role
    parts: tuple[str | Frame, ...]


@dataclass(frozen=True)
class Sampling:
    """Parameters of generation.

    Attributes:
        temperature: 0 decodes greedily.
        max_tokens: longest answer, in tokens.
        seed: for models that sample; None leaves it to the model.
    """

    temperature: float = 0.0
    max_tokens: int = 256
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.max_tokens < 1 or not 0 < self.top_p <= 1:
            raise UserError("temperature must be 0 or more, max_tokens 1 or more, and top_p above 0 and at most 1")


@dataclass(frozen=True)
class ChatRequest:
    """A request to a chat model.

    Attributes:
        prompt_id, prompt_version: name of the prompt; increase the version when its text changes.
        clip: content hash of the clip that the request is about; empty if there is none.
        frame_indices: indices of the frames that the request is about.
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
        """All frames of all messages."""
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
        text: content of the answer; empty if there is an error.
        raw: the response as received.
        finish_reason: "stop", "length" (cut off at `max_tokens`), "content_filter", ...; empty if unknown.
        seconds: time from sending the request to the whole answer.
        attempts: number of calls that it took.
        cost: in the currency of the model's prices; 0 if it has none.
        error: why there is no answer; None if there is one.
        final: whether the error is stored, so that the call is not repeated by later runs.
        cached: whether no call was made.
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


class RetryableError(Exception):
    """A call failed in a way that another attempt may not: overload, a broken connection, a server that restarts.

    Attributes:
        wait: seconds that the server asks to wait; None if it does not say.
        unavailable: the server could not be reached, so that the call was certainly not made.
    """

    def __init__(self, reason: str, wait: float | None = None, unavailable: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.unavailable = wait, unavailable


@runtime_checkable
class ChatModel(Protocol):
    """A model that answers requests; `complete` may be called by `concurrency` threads at once.

    Attributes:
        model_id: identifies the model in cache keys; for local models, it includes a hash of the weights.
        concurrency: number of requests that it answers at once.
    """

    @property
    def model_id(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    def complete(self, request: ChatRequest) -> Answer:
        """Answer one request; an answer that cannot be used, but may have been paid, has an error.

        Raises:
            RetryableError: another attempt may succeed.
            UserError: no request can succeed: a wrong key, no such model.
        """
        ...

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a call."""
        ...

    def close(self) -> None:
        """Free connections and memory."""
        ...
