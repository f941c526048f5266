"""The rating session: what raters get, order of votes, undo, restart; HTTP errors and ranges."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from cogvideox.cli.main import main
from cogvideox.errors import UserError
from cogvideox.evaluation.human.rubric import CRITERIA
from cogvideox.evaluation.human.study.protocol import VIDEOS
from cogvideox.serving.invites import Invites
from cogvideox.serving.rate.app import rating_app
from cogvideox.serving.rate.session import RatingSession
from cogvideox.serving.run import Address
from tests.unit.evaluation.human.videos import NAMES, small_study

PERFECT = {**dict.fromkeys(CRITERIA, 1), "total": 5}


@pytest.fixture
def folder(tmp_path):
    small_study(tmp_path, "single", num_prompts=3)
    return tmp_path / "study"


def invite(folder, name="Ann"):
    ((person, secret),) = Invites(folder).invite([name])
    return person, secret


def test_votes_follow_the_order_and_survive_a_restart(folder):
    person, _ = invite(folder)
    session = RatingSession(folder)
    with pytest.raises(UserError, match="consent"):
        session.tasks(person, 3)
    session.consent(person)
    tasks = session.tasks(person, 3)
    assert [task["position"] for task in tasks] == [0, 1, 2]
    with pytest.raises(UserError, match="not your next"):
        session.vote(person, 1, PERFECT, 2.0)
    with pytest.raises(UserError, match="at most 2"):
        session.vote(person, 0, {**PERFECT, "instruction": 0}, 2.0)
    session.vote(person, 0, PERFECT, 2.0)
    session.vote(person, 1, PERFECT, 2.0)
    assert session.undo(person)["position"] == 1
    session.store.close()
    again = RatingSession(folder)
    assert again.tasks(person, 2) == tasks[1:3]
    assert len(again.store.events()) == 4
    again.store.close()


def test_one_process_writes_a_study(folder, capsys, tmp_path):
    person, _ = invite(folder)
    session = RatingSession(folder)
    session.consent(person)
    for arguments in (["serve", str(folder), "--port", "0"], ["close", str(folder)]):
        assert main(["rate", *arguments]) == 2
        assert "is in use by another process that writes to it: stop the server" in capsys.readouterr().err
    assert main(["rate", "export", str(folder), str(tmp_path / "votes.jsonl")]) == 0, "readers need no lock"
    session.vote(person, 0, PERFECT, 2.0)
    assert [event.kind for event in session.store.events()] == ["consent", "vote"]
    session.store.close()
    assert main(["rate", "close", str(folder)]) == 0


def test_a_killed_process_releases_its_study(folder):
    program = (
        "import sys, time; from pathlib import Path; from cogvideox.serving.rate.session import RatingSession\n"
        "session = RatingSession(Path(sys.argv[1])); print('open', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "open\n"
            with pytest.raises(UserError, match="in use by another process"):
                RatingSession(folder)
        finally:
            process.kill()
    RatingSession(folder).store.close()


def test_the_browser_gets_no_names_paths_or_kinds(folder):
    person, secret = invite(folder)
    other, other_secret = invite(folder, "Bo")
    with TestClient(rating_app(folder, Address()), base_url="http://localhost") as client:
        assert client.get("/api/study").status_code == 401
        assert client.get("/i/wrong", follow_redirects=False).status_code == 403
        client.get(f"/i/{secret}", follow_redirects=False)  # sets the cookie
        received = [client.post("/api/consent", json={}).text]
        for path in ("/api/study", "/api/tasks?count=10", "/", "/static/rate/rate.js"):
            response = client.get(path)
            assert response.status_code == 200
            received.append(f"{response.text} {response.headers}")
        tasks = client.get("/api/tasks?count=10").json()
        for task in tasks:
            assert set(task) == {"position", "prompt", "videos", "training"}
            for url in task["videos"]:
                part = client.get(url, headers={"range": "bytes=4-7"})
                assert (part.status_code, part.content) == (206, b"ftyp")
                received.append(client.get(url).text + str(part.headers))
        for word in (*NAMES, "gold", str(folder), VIDEOS + "/"):
            assert not any(word in text for text in received), word
        (url,) = tasks[0]["videos"]
        client.cookies.clear()
        client.get(f"/i/{other_secret}", follow_redirects=False)
        assert client.get(url).status_code == 404  # names of files are those of one rater
        assert client.get("/media/0123456789abcdef01234567.mp4").status_code == 404
        assert client.get("/static/kit/..%2f..%2fapp.py").status_code == 404
        assert client.post("/api/votes", json={"position": "x"}).json()["error"]["message"]
        summary = client.get("/api/admin/summary").json()
        assert [rater["id"] for rater in summary["raters"]] == [person.id, other.id]
        assert not any(name in json.dumps(summary) for name in (*NAMES, "M1"))
        Invites(folder).revoke("Bo")
        assert client.get("/api/tasks").status_code == 401


def test_the_administration_needs_the_key(folder):
    key = "a-long-enough-key"
    with TestClient(rating_app(folder, Address(key=key)), base_url="http://localhost") as client:
        assert client.get("/api/admin/summary").status_code == 401
        assert client.get("/api/admin/summary", headers={"authorization": f"Bearer {key}"}).status_code == 200
