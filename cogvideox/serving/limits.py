"""ASGI middleware: limits on request bodies and slow clients, checks of host and origin, security headers."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
        header_seconds: longest time from the opening of a connection, or the first byte of a request, to the end of
            the request's headers.
        body_bytes: largest request body.
        body_seconds: longest time for receiving a body.
        idle_seconds: longest pause within a body.
        concurrency: number of connections that are served at once.
    """

    header_seconds: float = 10.0
    body_bytes: int = 64 * 1024
    body_seconds: float = 10.0
    idle_seconds: float = 3.0
    concurrency: int = 400


class Guard:
    """Middleware that rejects requests before the application sees them, and adds security headers to responses.

    - the host must be one of `hosts` (if given), so that other sites cannot reach a loopback server by DNS rebinding;
    - requests other than GET and HEAD must come from a page of this server, and have a JSON body within the limits.
    """

    def __init__(self, app: App, limits: Limits, hosts: Collection[str] | None) -> None:
        self.app, self.limits, self.hosts = app, limits, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()),
                ]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = _host(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            await respond(send_secured, 421, "unknown host name")
            return
        if scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send_secured)
            return
        if not is_same_origin(headers):
            await respond(send_secured, 403, "the request comes from another site")
            return
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            await respond(send_secured, 415, "the body must be application/json")
            return
        try:
            body = await self._read(receive, headers.get("content-length"))
        except TimeoutError:
            await respond(send_secured, 408, "the request body arrived too slowly")
            return
        if body is None:
            await respond(send_secured, 413, f"the request body is larger than {self.limits.body_bytes} bytes")
            return
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, send_secured)

    async def _read(self, receive: Receive, length: str | None) -> bytes | None:
        """Return the body; None if it is too large. Raises TimeoutError if it arrives too slowly."""
        if length is not None and (not length.isdecimal() or int(length) > self.limits.body_bytes):
            return None
        body, end = bytearray(), time.monotonic() + self.limits.body_seconds
        while True:
            timeout = min(self.limits.idle_seconds, end - time.monotonic())
            message = await asyncio.wait_for(receive(), max(timeout, 0.001))
            if message["type"] == "http.disconnect":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self.limits.body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def is_same_origin(headers: MutableMapping[str, str]) -> bool:
    """Return whether a request comes from a page of this server, or from a program other than a browser."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host", "")
    except ValueError:  # such as an opening bracket alone
        return False


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def respond(send: Send, status: int, message: str) -> None:
    """Send an error response."""
    body = json.dumps({"error": {"message": message}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
