"""A blind study in a real browser: what reaches the browser, the lock, keys, undo, and 20 raters at once."""

import asyncio
import json

import pytest

pytest.importorskip("fastapi")

import httpx

from cogvideox.evaluation.human.study.protocol import RATINGS, read_study
from cogvideox.evaluation.human.study.store import RatingStore
from tests.serving.server import axe_violations, chromium, cogvideox, invite, serving
from tests.unit.evaluation.human.videos import NAMES, small_study

KEYS = {"single": "23325", "pair": "12341"}


def capture(page) -> list[bytes]:
    """Collect the headers and bodies of all responses to a page."""
    received: list[bytes] = []

    def keep(response) -> None:
        received.append(json.dumps([response.url, response.all_headers()]).encode())
        if response.ok and response.status != 303:
            received.append(response.body())

    page.on("requestfinished", lambda request: keep(request.response()))
    return received


@pytest.mark.parametrize("mode", ["single", "pair"])
def test_a_study_in_the_browser(tmp_path, mode):
    study = small_study(tmp_path, mode, num_prompts=2, gold_fraction=0.5, repeat_fraction=0.5)
    folder = tmp_path / "study"
    (secret,) = invite("rate", folder, "Ann")
    with chromium() as browser, serving("rate", folder) as server:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        received, errors = capture(page), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/i/{secret}")
        page.wait_for_selector("#consent[open]")
        assert axe_violations(page) == []
        page.keyboard.press("Enter")
        page.wait_for_selector("#work:not([hidden])")
        total = int(page.locator("#count").inner_text().split()[-1])
        for done in range(total):
            page.wait_for_selector(f"text={done} of {total}", timeout=30_000)
            page.wait_for_selector("#locked:empty", state="attached", timeout=30_000)
            if done == 1:
                page.keyboard.press("Backspace")
                page.wait_for_selector(f"text=0 of {total}", timeout=30_000)
                page.wait_for_selector("#locked:empty", state="attached", timeout=30_000)
                answer(page, KEYS[mode])
                page.wait_for_selector(f"text=1 of {total}", timeout=30_000)
                page.wait_for_selector("#locked:empty", state="attached", timeout=30_000)
                assert axe_violations(page) == []
            answer(page, KEYS[mode])
        page.wait_for_selector("text=All items are answered", timeout=30_000)
        administration = browser.new_page()
        administration.goto(f"{server.url}/admin")
        administration.wait_for_selector("text=Ann")
        assert axe_violations(administration) == [] and errors == []
    assert len(received) > 20
    codes = [f'"{code}"' for code in study.models]
    for word in (*NAMES, *codes, 'gold"', str(tmp_path), *study_names(study)):
        assert not any(word.encode() in content for content in received), word
    store = RatingStore(folder / RATINGS, read_study(folder).hash, read_only=True)
    assert len(store.votes()) == total and [event.kind for event in store.events()].count("undo") == 1
    store.close()
    output = cogvideox("rate", "results", folder)
    assert "models are codes" in output and not any(name in output for name in NAMES)
    cogvideox("rate", "close", folder)
    assert all(name in cogvideox("rate", "results", folder) for name in NAMES)


def test_answers_are_locked_until_the_video_was_played(tmp_path):
    small_study(tmp_path, "pair", num_prompts=1)
    (secret,) = invite("rate", tmp_path / "study", "Ann")
    with chromium() as browser, serving("rate", tmp_path / "study") as server:
        page = browser.new_page()
        page.add_init_script("HTMLMediaElement.prototype.play = () => Promise.resolve()")  # videos never end
        page.goto(f"{server.url}/i/{secret}")
        page.wait_for_selector("#consent[open]")
        page.keyboard.press("Enter")
        page.wait_for_selector("#work:not([hidden])")
        page.wait_for_selector("#form button")
        assert page.locator("#form button:not([disabled])").count() == 0
        page.keyboard.press("1")
        page.wait_for_selector("text=Watch the video to its end first")


def study_names(study) -> list[str]:
    """Return the names of all files and items of a study."""
    return [name for item in study.items for name in (item.id, *item.videos)]


def answer(page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    page.keyboard.press("Enter")


def test_twenty_raters_at_once(tmp_path, capsys):
    study = small_study(tmp_path, "pair", num_prompts=4, repeat_fraction=0.25)
    folder = tmp_path / "study"
    names = [f"rater {index}" for index in range(20)]
    secrets = invite("rate", folder, *names)
    times: list[float] = []
    with serving("rate", folder) as server:
        asyncio.run(asyncio.wait_for(rate_all(server.url, secrets, times), 120))
    store = RatingStore(folder / RATINGS, study.hash, read_only=True)
    votes = store.votes()
    store.close()
    assert len({vote.rater for vote in votes}) == 20 and len({(v.rater, v.position) for v in votes}) == len(votes)
    middle, largest = sorted(times)[len(times) // 2], max(times)
    with capsys.disabled():
        print(f"\n{len(votes)} votes of 20 raters: median request {middle:.3f} s, largest {largest:.3f} s")


async def rate_all(url: str, secrets: list[str], times: list[float]) -> None:
    async def rate(secret: str) -> None:
        cookies = {"cogvideox-rate": secret}
        async with httpx.AsyncClient(base_url=url, cookies=cookies, trust_env=False, timeout=60) as client:

            async def call(method: str, path: str, body=None):
                response = await client.request(method, path, json=body)
                response.raise_for_status()
                times.append(response.elapsed.total_seconds())
                return response

            questions = (await call("POST", "/api/consent", {})).json()["criteria"]
            while tasks := (await call("GET", "/api/tasks?count=6")).json():
                for video in tasks[0]["videos"]:
                    assert len((await call("GET", video)).content) > 1000
                choices = {question["name"]: "left" for question in questions}
                body = {"position": tasks[0]["position"], "answer": choices, "seconds": 1.0}
                await call("POST", "/api/votes", body)

    await asyncio.gather(*map(rate, secrets))
