"""Servers of pages in processes of their own, and a browser, for tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 60


class Server:
    """`cogvideox COMMAND serve FOLDER` at a free port."""

    def __init__(self, command: str, folder: Path, *options: str, key: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command, self.folder, self.options, self.key = command, folder, options, key
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "cogvideox", self.command, "serve", str(self.folder), "--port", str(self.port)]
        environment = os.environ | {"COGVIDEOX_ADMIN_KEY": self.key, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([*command, *self.options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            try:
                httpx.get(self.url, trust_env=False, timeout=5)
                return
            except httpx.TransportError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.05)
        self.kill()
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def serving(command: str, folder: Path, *options: str, key: str = "") -> Iterator[Server]:
    server = Server(command, folder, *options, key=key)
    try:
        yield server
    finally:
        server.stop()


def cogvideox(*arguments: str | Path) -> str:
    """Run a command and return its output."""
    command = [sys.executable, "-m", "cogvideox", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def invite(command: str, folder: Path, *names: str) -> list[str]:
    """Invite people and return the secrets of their links."""
    return re.findall(r"/i/(\S+)", cogvideox(command, "invite", folder, *names))


@contextmanager
def chromium() -> Iterator:
    """Start Debian's Chromium, whose builds play H.264; skip the test if it is not installed."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--mute-audio"], timeout=60_000
        )
        try:
            yield browser
        finally:
            browser.close()


def axe_violations(page) -> list[str]:
    """Return the violations of accessibility rules that axe-core finds on a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    violations = axe.Axe().run(page).response["violations"]
    return [f"{violation['id']}: {violation['nodes'][0]['html'][:120]}" for violation in violations]
