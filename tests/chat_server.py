"""A local OpenAI-compatible server in a separate process, for tests.

The last message controls the response: `say: TEXT` returns TEXT; keywords such as `broken-json` trigger that failure.
`score-N` returns a judge's answer.
Any message without a keyword returns its number of words and images. All computed responses are logged.
"""

import json
import os
import re
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
    """The server process. `kill` sends SIGKILL; `start` restarts the server at the same port."""

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
        """Return the logged requests."""
        lines = self.log.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def computed(self) -> Counter:
        """Return the number of computations per idempotency key."""
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
        authorization = request.headers.get("authorization", "")
        if secret and authorization != f"Bearer {secret}":
            return JSONResponse({"error": {"message": f"Incorrect API key provided: {authorization}"}}, 401)
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        message = " ".join(part["text"] for part in parts if part["type"] == "text")
        response = failure_response(message, attempts[key], body)
        if response is not None:
            return response
        if key not in known:
            await asyncio.sleep(delay)
            known[key] = response_text(message, parts)
            with log.open("a", encoding="utf-8") as file:
                line = {"key": key, "text": known[key], "body": body, "asked": message}
                file.write(json.dumps(line) + "\n")
        reason = "length" if "cut-off" in message else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": known[key]}, "finish_reason": reason}
        tokens = {"prompt_tokens": len(message.split()), "completion_tokens": len(known[key].split())}
        return {"model": body["model"], "choices": [choice], "usage": tokens}

    def failure_response(message: str, attempt: int, body: dict):
        if "overloaded" in message and attempt < 3:
            return JSONResponse({"error": {"message": "slow down"}}, 429, headers={"Retry-After": "0.05"})
        if "always-fails" in message:
            return JSONResponse({"error": {"message": "a bug"}}, 500)
        if "refused" in message:
            return JSONResponse({"error": {"message": "the image is too large"}}, 400)
        if "no-schema" in message and "response_format" in body:
            return JSONResponse({"error": {"message": "response_format is not supported"}}, 400)
        if "broken-json" in message:
            return Response("{'choices': [", media_type="application/json")
        if "other-json" in message:
            return JSONResponse([1, {"choices": 3}])
        if "huge-body" in message:
            return Response(b"[" * 9_000_000, media_type="application/json")
        return None

    def response_text(message: str, parts: list[dict]) -> str:
        if "empty-answer" in message:
            return ""
        if "megabyte" in message:
            return "word " * 200_000
        if score := re.search(r"score-(\d)", message):
            return f'Brief Reasoning Statement: the frames change.\n"Score":{{{score[1]}}}'
        if "say: " in message:
            return message.rpartition("say: ")[2].partition("\n")[0]
        return f"{len(message.split())} words, {sum(part['type'] == 'image_url' for part in parts)} images"

    return api
