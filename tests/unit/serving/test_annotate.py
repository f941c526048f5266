"""The annotation session: durable answers, undo, restart, agreement, learning; what the browser gets."""

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("sklearn")

from fastapi.testclient import TestClient

from cogvideox.cli.main import main
from cogvideox.curation.annotations.store import STORE, AnnotationStore
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.errors import UserError
from cogvideox.serving.annotate.app import admin_summary, annotation_app
from cogvideox.serving.annotate.examples import EXAMPLES
from cogvideox.serving.annotate.feeds import FeedSettings
from cogvideox.serving.annotate.progress import compute_progress, format_progress
from cogvideox.serving.annotate.session import AnnotationSession
from cogvideox.serving.invites import Invites
from cogvideox.serving.run import Address
from tests.unit.serving.curation import write_curation

SETTINGS = FeedSettings(overlap=1.0, gold=0.0)


@pytest.fixture
def session(tmp_path):
    write_curation(tmp_path, 8)
    session = AnnotationSession(tmp_path / "out", tmp_path / "raw", SETTINGS)
    yield session
    session.store.close()


def invite(session, *names):
    """Invite people, who agree."""
    invited = Invites(session.output).invite(names)
    for person, _ in invited:
        session.consent(person)
    return invited


def test_answers_undo_and_restart(session):
    ((ann, _),) = invite(session, "Ann")
    tasks = session.next(ann, 6)
    assert len({task["clip"] for task in tasks}) == 6
    session.annotate(ann, tasks[0]["clip"], ["text", "editing"], False, 2.0)
    session.annotate(ann, tasks[1]["clip"], [], True, 1.0)
    undone = session.undo(ann)
    assert (undone["clip"], undone["labels"], undone["done"]) == (tasks[1]["clip"], (), 1)
    assert session.next(ann, 2)[0]["clip"] == tasks[1]["clip"]
    undone = session.undo(ann)
    assert undone["labels"] == ("editing", "text") and undone["done"] == 0
    session.annotate(ann, tasks[0]["clip"], ["static"], False, 2.0)
    assert session.undo(ann)["done"] == 0 and session.undo(ann)["clip"] is None
    session.annotate(ann, tasks[0]["clip"], ["static"], False, 2.0)
    session.store.close()
    again = AnnotationSession(session.output, session.clips.by_id[tasks[0]["clip"]].path.parent, SETTINGS)
    assert again.overview(ann)["done"] == 1
    assert tasks[0]["clip"] not in [task["clip"] for task in again.next(ann, 8)]
    again.store.close()


def test_only_clips_that_were_handed_out_can_be_answered(session):
    (ann, _), (bo, _) = invite(session, "Ann", "Bo")
    clip = session.next(ann, 1)[0]["clip"]
    with pytest.raises(UserError, match="not one of your next"):
        session.annotate(bo, clip, [], False, 1.0)
    with pytest.raises(UserError, match="unknown label"):
        session.annotate(ann, clip, ["nice"], False, 1.0)
    assert clip not in [task["clip"] for task in session.next(bo, 8)]


def test_agreement_equals_a_hand_calculation(session):
    (ann, _), (bo, _) = invite(session, "Ann", "Bo")
    clips = [task["clip"] for task in session.next(ann, 4)]
    expected = {clips[0]: "11", clips[1]: "00", clips[2]: "10", clips[3]: "11"}
    for person, index in ((ann, 0), (bo, 1)):
        while tasks := session.next(person, 8):
            for task in tasks:
                labels = ["editing"] if expected.get(task["clip"], "..")[index] == "1" else []
                session.annotate(person, task["clip"], labels, task["clip"] not in expected, 3.0)
    progress = compute_progress(session.store)
    assert progress.agreement["editing"].value == pytest.approx(1 - (1 / 4) / (15 / 28))
    assert progress.num_shared == 4 and [row.num_unsure for row in progress.annotators] == [4, 4]
    assert progress.annotators[0].clips_per_minute == pytest.approx(20)
    assert "Ann" in format_progress(progress, {ann.id: "Ann"})
    assert admin_summary(session)["annotators"][0]["name"] == "Ann"


def test_accuracy_on_gold_items(session):
    ((ann, _),) = invite(session, "Ann")
    clips = [task["clip"] for task in session.next(ann, 2)]
    for clip in clips:
        session.store.annotate(clip, "expert", ["editing"], kind="gold")
    session.annotate(ann, clips[0], ["editing"], False, 1.0)
    session.annotate(ann, clips[1], ["text"], False, 1.0)
    (row,) = [row for row in compute_progress(session.store).annotators if row.annotator == ann.id]
    assert row.gold == pytest.approx(10 / 12)


def test_the_browser_gets_no_paths_and_no_answers_of_others(session, tmp_path):
    (ann, first), (_, second) = invite(session, "Ann", "Bo")
    with TestClient(annotation_app(session, Address()), base_url="http://localhost") as client:
        client.get(f"/i/{first}", follow_redirects=False)
        overview = client.get("/api/overview").json()
        assert [label["name"] for label in overview["labels"]] == list(LABELS)
        assert all(len(label["examples"]) == 3 for label in overview["labels"])
        tasks = client.get("/api/next?count=3").json()
        assert client.get(tasks[0]["video"], headers={"range": "bytes=4-7"}).content == b"ftyp"
        body = {"clip": tasks[0]["clip"], "labels": ["editing"], "seconds": 2.5}
        assert client.post("/api/annotations", json=body).json()["done"] == 1
        assert client.post("/api/annotations", json={**body, "labels": "x"}).status_code == 422
        assert client.post("/api/annotations", json={**body, "seconds": -1}).status_code == 422
        texts = [str(overview), str(tasks)]
        client.cookies.clear()
        client.get(f"/i/{second}", follow_redirects=False)
        assert client.get(tasks[0]["video"]).status_code == 404
        texts += [client.get("/api/overview").text, client.get("/api/next?count=10").text]
        assert not any(word in text for text in texts for word in (str(tmp_path), "video-", ann.id, "raw"))
        assert client.get("/api/next?feed=wrong").status_code == 422
        assert client.get("/api/admin/summary").json()["num_clips"] == 1
    assert set(EXAMPLES) == set(LABELS) and {len(examples) for examples in EXAMPLES.values()} == {3}


def test_each_person_agrees_once(session, tmp_path):
    (ann, secret), (bo, _) = Invites(session.output).invite(["Ann", "Bo"])
    for action in (lambda: session.next(ann, 1), lambda: session.annotate(ann, "x", [], False, 1.0)):
        with pytest.raises(UserError, match="consent is missing"):
            action()
    with TestClient(annotation_app(session, Address()), base_url="http://localhost") as client:
        client.get(f"/i/{secret}", follow_redirects=False)
        assert client.get("/api/overview").json()["consented"] is False
        assert client.get("/api/next").json()["error"]["message"].startswith("the consent is missing")
        for _ in range(2):
            assert client.post("/api/consent", json={}).json()["consented"] is True
        assert client.post("/api/undo", json={}).json()["clip"] is None, "a consent is not an answer"
        assert len(client.get("/api/next").json()) == 6
    again = AnnotationSession(session.output, tmp_path / "raw", SETTINGS)  # the client closed the first session
    assert again.overview(ann)["consented"] and not again.overview(bo)["consented"]
    assert [(event.kind, event.annotator) for event in again.store.events()] == [("consent", ann.id)]
    again.store.close()


def test_one_process_writes(session, capsys, tmp_path):
    table, output = tmp_path / "table.csv", str(session.output)
    table.write_text("clip_id,annotator,text\n" + "0" * 24 + ",bo,true\n")
    raw = str(tmp_path / "raw")
    writing = (["annotate", "serve", output, "--port", "0", "--raw", raw], ["labels", "import", output, str(table)])
    for arguments in writing:
        assert main(arguments) == 2
        assert "is in use by another process that writes to it: stop the server" in capsys.readouterr().err
    assert session.store.events() == []
    ((ann, _),) = invite(session, "Ann")
    session.annotate(ann, session.next(ann, 1)[0]["clip"], ["text"], False, 1.0)
    assert main(["annotate", "progress", output]) == 0
    assert main(["labels", "export", output, str(tmp_path / "annotations.csv")]) == 0
    assert session.store.consents()[ann.id] in (tmp_path / "annotations.csv").read_text()
    session.store.close()
    assert main(writing[1]) == 0
    assert "1 new annotations" in capsys.readouterr().out


@pytest.mark.slow
def test_learning_from_answers_orders_the_feeds(tmp_path, capsys):
    truth = write_curation(tmp_path, 120, frames=0)
    output = tmp_path / "out"
    assert main(["annotate", "learn", str(output)]) == 2
    assert "no annotations yet" in capsys.readouterr().err
    with AnnotationStore(output / STORE, wal=True, exclusive=True) as store:  # open, as while people annotate
        for index in range(60):
            store.annotate(f"{index:024x}", "ann", [name for name in LABELS if truth[name][index]])
        assert main(["annotate", "learn", str(output)]) == 0
        assert main(["annotate", "progress", str(output)]) == 0
    session = AnnotationSession(output, tmp_path / "raw", SETTINGS)
    ((bo, _),) = invite(session, "Bo")
    assert "likely" in session.overview(bo)["feeds"]
    likely = [int(task["clip"], 16) for task in session.next(bo, 10, "likely", "editing")]
    assert truth["editing"][likely].mean() > 0.8 > truth["editing"].mean()
    assert np.isfinite(list(session.pool.thresholds.values())).all()
    session.store.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "needs OUT"),
        (["serve", "missing"], "not a folder"),
        (["serve", ".", "--learn", "0"], "1 or more"),
        (["learn", ".", "--watch", "0"], "above 0"),
        (["progress", "."], "no annotations"),
        (["invite", "."], "needs NAME"),
        (["serv"], "did you mean serve"),
    ],
)
def test_errors_of_the_command_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["annotate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_watching_waits_for_answers_and_sees_changed_ones(tmp_path, monkeypatch, capsys):
    from cogvideox.cli.curation import annotate
    from cogvideox.curation.annotations.store import STORE, AnnotationStore

    output, rounds = tmp_path / "out", []
    output.mkdir()

    def learn_once(folder, seed):
        if not (folder / STORE).is_file():
            raise UserError("no annotations yet")
        rounds.append(annotate._last_event(folder))

    changes = [lambda store: store.annotate("a", "ann", ["text"]), lambda store: store.annotate("a", "ben", []),
               lambda store: None, lambda store: store.undo("ben")]  # fmt: skip

    def sleep(_):
        if not changes:
            raise KeyboardInterrupt
        with AnnotationStore(output / STORE) as store:
            changes.pop(0)(store)

    monkeypatch.setattr(annotate, "_learn_once", learn_once)
    monkeypatch.setattr(annotate.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        annotate.learn([str(output), "--watch", "1"])
    assert rounds == [1, 2, 3]
    assert "waiting for more answers" in capsys.readouterr().out
