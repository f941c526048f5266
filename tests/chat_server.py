"""A small OpenAI-compatible server on this machine, in a process of its own, for tests.

It answers what the last message asks for: `say: TEXT` answers the rest of the line, and a word such as `broken-json`
misbehaves as its name says. Everything else is answered by the number of words and images. All answers are logged.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent


class ChatServer:
    """The server process. `kill` ends it at once, `start` starts it again at the same port."""

    def __init__(self, folder: Path, *, delay: float = 0.0, key: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = folder / "chat-server.jsonl"
        self.log.touch()
        self._environment = os.environ | {"CHAT_LOG": str(self.log), "CHAT_DELAY": str(delay), "CHAT_KEY": key}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "tests.chat_server:app", "--factory", "--port", str(self.port)]
        self._process = subprocess.Popen([*command, "--log-level", "error"], cwd=ROOT, env=self._environment)
        for _ in range(1200):
            try:
                httpx.get(f"{self.url}/models", trust_env=False)
                return
            except httpx.TransportError:
                assert self._process.poll() is None, "the server ended"
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def requests(self) -> list[dict]:
        """Return the requests that were answered, as they were received."""
        lines = self.log.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def computed(self) -> Counter:
        """Return how often each request was computed, by its idempotency key."""
        return Counter(request["key"] for request in self.requests())


def app():
    import asyncio

    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response

    api = FastAPI()
    delay, secret = float(os.environ["CHAT_DELAY"]), os.environ["CHAT_KEY"]
    log = Path(os.environ["CHAT_LOG"])
    known = {request["key"]: request["text"] for request in map(json.loads, log.read_text().splitlines())}
    attempts: Counter = Counter()

    @api.get("/v1/models")
    def models():
        return {"data": []}

    @api.post("/v1/chat/completions")
    async def complete(request: Request):
        body, key = await request.json(), request.headers["idempotency-key"]
        attempts[key] += 1
        given = request.headers.get("authorization", "")
        if secret and given != f"Bearer {secret}":
            return JSONResponse({"error": {"message": f"Incorrect API key provided: {given}"}}, 401)
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        asked = " ".join(part["text"] for part in parts if part["type"] == "text")
        response = misbehave(asked, attempts[key], body)
        if response is not None:
            return response
        if key not in known:
            await asyncio.sleep(delay)
            known[key] = answer(asked, parts)
            with log.open("a", encoding="utf-8") as file:
                line = {"key": key, "text": known[key], "body": body, "asked": asked}
                file.write(json.dumps(line) + "\n")
        reason = "length" if "cut-off" in asked else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": known[key]}, "finish_reason": reason}
        tokens = {"prompt_tokens": len(asked.split()), "completion_tokens": len(known[key].split())}
        return {"model": body["model"], "choices": [choice], "usage": tokens}

    def misbehave(asked: str, attempt: int, body: dict):
        if "overloaded" in asked and attempt < 3:
            return JSONResponse({"error": {"message": "slow down"}}, 429, headers={"Retry-After": "0.05"})
        if "always-fails" in asked:
            return JSONResponse({"error": {"message": "a bug"}}, 500)
        if "refused" in asked:
            return JSONResponse({"error": {"message": "the image is too large"}}, 400)
        if "no-schema" in asked and "response_format" in body:
            return JSONResponse({"error": {"message": "response_format is not supported"}}, 400)
        if "broken-json" in asked:
            return Response("{'choices': [", media_type="application/json")
        if "other-json" in asked:
            return JSONResponse([1, {"choices": 3}])
        if "huge-body" in asked:
            return Response(b"[" * 9_000_000, media_type="application/json")
        return None

    def answer(asked: str, parts: list[dict]) -> str:
        if "empty-answer" in asked:
            return ""
        if "megabyte" in asked:
            return "word " * 200_000
        if "say: " in asked:
            return asked.rpartition("say: ")[2].partition("\n")[0]
        return f"{len(asked.split())} words, {sum(part['type'] == 'image_url' for part in parts)} images"

    return api
