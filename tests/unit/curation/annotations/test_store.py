"""Current annotations are derived from an append-only log."""

import sqlite3
import subprocess
import sys
import threading

import pytest

from cogvideox.curation.annotations.store import AnnotationStore
from cogvideox.errors import UserError


@pytest.fixture
def store(tmp_path):
    with AnnotationStore(tmp_path / "annotations.db") as store:
        yield store


def test_latest_answer_wins(store):
    store.annotate("a", "ann", ["text", "editing"], seconds=2.0)
    store.annotate("a", "bob", [])
    store.annotate("a", "ann", ["lecture"])
    assert [(event.annotator, event.labels) for event in store.annotations()] == [("bob", ()), ("ann", ("lecture",))]
    assert store.events()[0].labels == ("editing", "text"), "labels are kept in the order of their definition"
    assert store.events()[0].seconds == 2.0


def test_undo_is_an_event_and_restores_the_previous_annotation(store):
    store.annotate("a", "ann", ["text"])
    store.annotate("a", "ann", ["lecture"])
    store.annotate("b", "bob", [])
    assert store.undo("ann").labels == ("lecture",)
    assert [event.labels for event in store.annotations("a")] == [("text",)]
    assert store.undo("ann").labels == ("text",)
    assert store.undo("ann") is None
    assert store.annotations("a") == []
    assert [event.kind for event in store.events()] == ["annotation"] * 3 + ["undo"] * 2


def test_skip_replaces_the_previous_annotation(store):
    store.annotate("a", "ann", ["text"])
    store.annotate("a", "ann", [], kind="skip")
    assert store.annotations() == []
    assert [event.kind for event in store.annotations(skipped=True)] == ["skip"]


def test_votes_majority_and_gold(store):
    for annotator, labels in (("ann", ["text"]), ("bob", ["text", "lecture"]), ("eve", [])):
        store.annotate("a", annotator, labels)
    store.annotate("b", "ann", ["text"])
    store.annotate("b", "bob", [])
    votes = store.votes()
    assert votes["a"]["text"] == pytest.approx(2 / 3) and votes["a"]["lecture"] == pytest.approx(1 / 3)
    assert store.majority()["a"]["text"] is True and store.majority()["a"]["lecture"] is False
    assert store.majority()["b"]["text"] is None, "tied"
    store.annotate("b", "expert", ["editing"], kind="gold")
    assert store.gold() == {"b": ("editing",)}
    assert store.majority()["b"] == {name: name == "editing" for name in store.votes()["b"]}


def test_events_are_never_changed_or_removed(store):
    store.annotate("a", "ann", ["text"])
    connection = sqlite3.connect(store.path)
    for statement in ("UPDATE events SET labels = '[]'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)


def test_consent_is_one_event_that_undo_keeps(store):
    store.annotate("a", "ann", ["text"])
    store.consent("ann")
    store.consent("ann")
    consent = store.events()[-1]
    assert (consent.number, consent.kind, consent.clip_id, consent.labels) == (2, "consent", "", ())
    assert store.consents() == {"ann": consent.time}
    assert store.undo("ann").kind == "annotation" and store.undo("ann") is None
    assert store.consents() == {"ann": consent.time} and store.votes() == {}


def test_one_exclusive_writer(tmp_path):
    path = tmp_path / "annotations.db"
    with AnnotationStore(path, exclusive=True) as store:
        with pytest.raises(UserError, match=r"annotations\.db is in use by another process"):
            AnnotationStore(path, exclusive=True)
        store.annotate("a", "ann", [])
        with AnnotationStore(path, read_only=True) as reader:
            assert len(reader.events()) == 1
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one\n" * 20)
    for _ in range(2):  # the failed attempt holds no lock
        with pytest.raises(UserError, match="cannot open"):
            AnnotationStore(tmp_path / "text.db", exclusive=True)
    AnnotationStore(path, exclusive=True).close()


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("a", "ann", ["blurry"]), {}, "unknown label blurry"),
        (("", "ann", []), {}, "needs a clip id"),
        (("a", "ann", ["text"]), {"kind": "skip"}, "has no labels"),
        (("a", "ann", []), {"kind": "consent"}, "has no clip"),
        (("a", "ann", []), {"kind": "undo"}, "must be annotation, skip or gold"),
        (("a", "ann", []), {"time": "yesterday"}, "must be ISO 8601"),
    ],
)
def test_invalid_annotations_are_rejected(store, arguments, keywords, message):
    with pytest.raises(UserError, match=message):
        store.annotate(*arguments, **keywords)
    assert store.events() == []


def test_files_that_are_not_stores_are_rejected(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one\n" * 20)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE events (number INTEGER)")
    other.close()
    for name in ("text.db", "other.db"):
        with pytest.raises(UserError, match="cannot open"):
            AnnotationStore(tmp_path / name)


def test_threads_and_processes_write_to_one_store(store):
    def write(annotator: str) -> None:
        for index in range(20):
            store.annotate(f"clip-{index}", annotator, ["text"])

    program = (
        "import sys; from cogvideox.curation.annotations.store import AnnotationStore\n"
        "store = AnnotationStore(sys.argv[1])\n"
        "for index in range(20): store.annotate(f'clip-{index}', 'process', [])"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(store.path)])
    threads = [threading.Thread(target=write, args=(f"thread-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait() == 0
    assert [event.number for event in store.events()] == list(range(1, 81))
    assert len(store.annotations()) == 80
