"""The middleware rejects large and slow bodies, foreign sites and unknown hosts; responses have security headers."""

import asyncio
import json

import pytest

from cogvideox.errors import UserError
from cogvideox.serving.limits import Guard, Limits
from cogvideox.serving.run import Address

LIMITS = Limits(body_bytes=100, body_seconds=0.5, idle_seconds=0.1)
JSON = {"content-type": "application/json", "host": "localhost:1"}


def call(method: str, headers: dict[str, str], chunks: list[tuple[float, bytes]], hosts=("localhost",)):
    """Send a request whose body arrives in chunks after delays, and return (status, body, headers)."""
    sent = []

    async def echo(scope, receive, send):
        message = await receive() if method == "POST" else {}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message.get("body", b"page")})

    async def run():
        pending = list(chunks)

        async def receive():
            delay, body = pending.pop(0)
            await asyncio.sleep(delay)
            return {"type": "http.request", "body": body, "more_body": bool(pending)}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": method, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
        await Guard(echo, LIMITS, hosts)(scope, receive, send)

    asyncio.run(asyncio.wait_for(run(), 20))
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


def test_a_body_within_the_limits_reaches_the_application():
    status, body, headers = call("POST", JSON, [(0, b"a" * 60), (0, b"b" * 40)])
    assert (status, body) == (200, b"a" * 60 + b"b" * 40)
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    ("headers", "chunks", "status"),
    [
        ({**JSON, "content-length": "101"}, [(0, b"")], 413),
        (JSON, [(0, b"a" * 60), (0, b"a" * 41)], 413),
        (JSON, [(0.4, b"late")], 408),
        (JSON, [(0.05, b"a")] * 50, 408),
        ({**JSON, "content-type": "text/plain"}, [(0, b"{}")], 415),
        ({**JSON, "origin": "https://evil.example"}, [(0, b"{}")], 403),
        ({**JSON, "sec-fetch-site": "cross-site"}, [(0, b"{}")], 403),
        ({**JSON, "host": "evil.example"}, [(0, b"{}")], 421),
        ({**JSON, "origin": "http://localhost:1"}, [(0, b"{}")], 200),
    ],
)
def test_other_requests_are_rejected(headers, chunks, status):
    got, body, secured = call("POST", headers, chunks)
    assert got == status
    assert got == 200 or json.loads(body)["error"]["message"]
    assert b"content-security-policy" in secured


def test_pages_are_read_without_an_origin_but_not_under_another_host():
    assert call("GET", {"host": "localhost:1"}, [])[0] == 200
    assert call("GET", {"host": "rebound.example:1"}, [])[0] == 421
    assert call("GET", {"host": "any.example"}, [], hosts=None)[0] == 200


def test_other_addresses_than_loopback_need_a_key():
    assert Address().allowed_hosts is not None
    with pytest.raises(UserError, match="set a key"):
        Address("0.0.0.0")
    with pytest.raises(UserError, match="16 characters"):
        Address("0.0.0.0", key="short")
    assert Address("0.0.0.0", key="k" * 16).allowed_hosts is None


def test_malformed_hosts_and_origins_are_rejected():
    assert call("GET", {"host": "["}, [])[0] == 421
    assert call("POST", {**JSON, "origin": "http://["}, [(0, b"{}")])[0] == 403
