"""Client for OpenAI-compatible HTTP endpoints: OpenAI, vLLM, SGLang, llama.cpp, `transformers serve` and others.

By default, frames are sent as base64 JPEGs, each after its timestamp; all servers with image input accept this format.
With `frames=video_url`, frames are sent as one video, which vLLM and SGLang accept.
"""

import base64
import ipaddress
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from cogvideox.config import check_minimum
from cogvideox.errors import UserError
from cogvideox.llm.chat import Answer, ChatRequest, Frame, RetryableError

MAX_RESPONSE_BYTES = 8 * 2**20
_RETRYABLE = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
_FATAL = {
    401: "the key is wrong or missing",
    402: "the account has no credit left",
    403: "access is denied",
    404: "there is no such model or path",
}


@dataclass(frozen=True)
class Endpoint:
    """Config of an OpenAI-compatible endpoint.

    Attributes:
        url: base URL, such as http://127.0.0.1:8000/v1.
        model: name of the model at the endpoint.
        key_variable: environment variable that holds the API key; empty if the endpoint needs no key.
        concurrency: maximum number of concurrent calls.
        per_minute: maximum number of calls per minute; None is unlimited.
        timeout: seconds to wait for a response.
        frames: "images" sends each frame as an image, "video_url" all frames as one video.
        structured: how to send a JSON schema: "json_schema", "json_object", "prompt" (in the text only), or "auto"
            (`json_schema`; the text only if the endpoint rejects it).
        price_prompt, price_completion: price per million tokens.
        extra: additional fields of each request body, such as {"top_k": 1}.
    """

    url: str
    model: str
    key_variable: str = ""
    concurrency: int = 4
    per_minute: float | None = None
    timeout: float = 300.0
    frames: Literal["images", "video_url"] = "images"
    structured: Literal["auto", "json_schema", "json_object", "prompt"] = "auto"
    price_prompt: float = 0.0
    price_completion: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise UserError(f"url={self.url!r} is not an address: use the form http://HOST:PORT/v1")
        check_minimum(self, above=["timeout", "per_minute"], concurrency=1, price_prompt=0, price_completion=0)

    def open(self) -> "EndpointModel":
        """Return the model.

        Raises:
            UserError: httpx is not installed, or the environment variable of the key is not set.
        """
        return EndpointModel(self)


class EndpointModel:
    """A chat model behind an endpoint. See `chat.ChatModel`."""

    def __init__(self, endpoint: Endpoint, model_id: str = "") -> None:
        try:
            import httpx
        except ImportError as error:
            raise UserError("httpx is not installed: pip install 'cogvideox[llm]'") from error
        self.endpoint = endpoint
        options = {"extra": endpoint.extra, "frames": endpoint.frames, "structured": endpoint.structured}
        changed = {name: value for name, value in options.items() if value not in ({}, "images", "auto")}
        suffix = f" {json.dumps(changed, sort_keys=True)}" if changed else ""
        self._model_id = model_id or endpoint.model + suffix
        self._key = ""
        if endpoint.key_variable:
            self._key = os.environ.get(endpoint.key_variable, "").strip()
            if not self._key:
                raise UserError(f"the environment variable {endpoint.key_variable} with the endpoint's key is not set")
            if not (self._key.isascii() and self._key.isprintable()):
                raise UserError(
                    f"the environment variable {endpoint.key_variable} is not a key: it has spaces or non-ASCII "
                    "characters"
                )
        self._schema_rejected = False
        self._httpx = httpx
        self._http = httpx.Client(
            timeout=httpx.Timeout(endpoint.timeout, connect=10.0),
            limits=httpx.Limits(max_connections=endpoint.concurrency),
            trust_env=not _is_loopback(endpoint.url),  # proxies cannot reach loopback addresses
        )

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def concurrency(self) -> int:
        return self.endpoint.concurrency

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        prices = self.endpoint.price_prompt, self.endpoint.price_completion
        return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6

    def close(self) -> None:
        self._http.close()

    def complete(self, request: ChatRequest) -> Answer:
        with_schema = request.schema is not None and not self._schema_rejected
        status, body, wait = self._post(self._body(request, with_schema), request)
        if status in (400, 422) and with_schema and self.endpoint.structured == "auto":
            status, body, wait = self._post(self._body(request, False), request)
            self._schema_rejected |= status == 200  # otherwise something else is wrong with the request
        if status == 200:
            return parse_completion(body)
        reason = f"{self.endpoint.url} answered {status}: {self._redact(error_message(self._redact(body)))}"
        if 300 <= status < 400:
            raise UserError(f"{reason} (the address has moved: correct url)")
        if status in _FATAL or "insufficient_quota" in body[:2000]:
            raise UserError(f"{reason} ({_FATAL.get(status, 'the quota is used up')})")
        if status in _RETRYABLE:
            raise RetryableError(reason, wait)
        return Answer(raw=self._redact(body), error=reason, free=True)

    def _post(self, body: dict[str, Any], request: ChatRequest) -> tuple[int, str, float | None]:
        """Return the status, the body, and the delay requested by the server in seconds."""
        url = self.endpoint.url.rstrip("/") + "/chat/completions"
        # Servers that support the header answer a repeated request from storage, without charging for it again.
        headers = {"Idempotency-Key": f"{request.key(self.model_id)[:47]}{int('response_format' in body)}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        errors = self._httpx
        try:
            with self._http.stream("POST", url, json=body, headers=headers) as response:
                content = bytearray()
                for part in response.iter_bytes():
                    content += part
                    if len(content) > MAX_RESPONSE_BYTES:
                        return 200, "", None
                text = content.decode("utf-8", "replace")
                return response.status_code, text, retry_after(response.headers.get("retry-after"))
        except (errors.ConnectError, errors.ConnectTimeout) as error:
            raise RetryableError(f"cannot reach {self.endpoint.url}: {error}", unavailable=True) from error
        except errors.TimeoutException as error:
            reason = f"{self.endpoint.url} did not answer in {self.endpoint.timeout:g} s"
            raise RetryableError(reason, unanswered=True) from error
        except errors.RequestError as error:  # or the content cannot be decoded
            reason = f"the connection to {self.endpoint.url} broke: {self._redact(str(error))}"
            was_sent = isinstance(error, errors.ReadError | errors.RemoteProtocolError | errors.DecodingError)
            raise RetryableError(reason, unanswered=was_sent) from error

    def _body(self, request: ChatRequest, with_schema: bool) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [
                {"role": message.role, "content": _content(message.parts, self.endpoint.frames)}
                for message in request.messages
            ],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.top_p < 1.0:
            body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if with_schema and self.endpoint.structured in ("auto", "json_schema"):
            schema = {"name": "answer", "schema": dict(request.schema or {}), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif with_schema and self.endpoint.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body | self.endpoint.extra

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def parse_completion(body: str) -> Answer:
    """Parse a chat completion; return an answer with an error if the body is invalid."""
    if not body:
        return Answer(error=f"the response is empty or larger than {MAX_RESPONSE_BYTES:,} bytes")
    try:
        data = _load(body)
        choice = data["choices"][0]
        text = choice["message"]["content"]
        usage = data.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        text = "" if text is None else text
        if not isinstance(text, str) or min(tokens) < 0 or max(tokens) >= 2**31:
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError):
        return Answer(raw=body, error="the response is not a chat completion in JSON")
    reason = choice.get("finish_reason")
    return Answer(text, body, str(data.get("model") or ""), *tokens, reason if isinstance(reason, str) else "")


def _load(body: str) -> Any:
    """Parse JSON; lone surrogates, which no file can store, become question marks."""
    return json.loads(json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace"))


def error_message(body: str) -> str:
    """Return the message of an error response, truncated to 300 characters."""
    try:
        error = _load(body)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        message = body
    return " ".join(str(message).split())[:300] or "no reason given"


def retry_after(value: str | None) -> float | None:
    """Parse a Retry-After header to seconds; None if the header is missing or invalid."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _content(parts: Sequence[str | Frame], frames: Literal["images", "video_url"]) -> Any:
    if all(isinstance(part, str) for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    content: list[dict[str, Any]] = []
    if frames == "video_url":
        images = [base64.b64encode(part.jpeg).decode() for part in parts if isinstance(part, Frame)]
        content.append({"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join(images)}})
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif frames == "images":
            if part.time is not None:
                content.append({"type": "text", "text": f"t={part.time:.1f}s"})
            kind = "png" if part.jpeg.startswith(b"\x89PNG") else "jpeg"
            url = f"data:image/{kind};base64,{base64.b64encode(part.jpeg).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
    return content


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
