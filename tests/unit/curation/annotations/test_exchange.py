"""Round trips through Label Studio, CSV and Parquet."""

import json
from xml.etree import ElementTree as ET

import pytest

from cogvideox.curation.annotations.label_studio import LABELING_CONFIG, export_tasks, import_tasks
from cogvideox.curation.annotations.store import AnnotationStore
from cogvideox.curation.annotations.tables import export_table, import_table
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.errors import UserError


@pytest.fixture
def store(tmp_path):
    with AnnotationStore(tmp_path / "annotations.db") as store:
        store.annotate("a", "ann@example.org", ["editing", "text"], seconds=2.5)
        store.annotate("a", "bob", [])
        store.annotate("b", "bob", ["lecture"], kind="gold")
        store.annotate("c", "bob", [], kind="skip")
        store.annotate("d", "bob", ["text"])
        store.undo("bob")
        yield store


def contents(store: AnnotationStore) -> list[tuple]:
    return sorted(
        (event.kind, event.clip_id, event.annotator, event.labels, event.time, event.seconds)
        for event in store.events()
        if event.kind != "undo" and event.clip_id != "d"
    )


def test_label_studio_round_trip(store, tmp_path):
    number = export_tasks(store, {"a": "/a.mp4", "x": "/x.mp4"}, tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert number == len(tasks) == 4  # a, x (not annotated), c, b
    assert tasks[0]["data"] == {"clip_id": "a", "video": "/a.mp4"}
    assert tasks[0]["annotations"][0]["result"][0]["value"]["choices"] == ["Editing", "Text-dominated"]
    with AnnotationStore(tmp_path / "other.db") as other:
        assert import_tasks(other, tmp_path / "tasks.json") == 4
        assert contents(other) == contents(store)
        assert import_tasks(other, tmp_path / "tasks.json") == 0, "importing a file again adds nothing"


def test_label_studio_export_is_imported(tmp_path):
    """Label Studio writes numeric annotators, times with Z, and fields that are ignored."""
    annotation = {
        "id": 7,
        "completed_by": 3,
        "created_at": "2026-05-01T12:00:00.123456Z",
        "lead_time": 4.2,
        "was_cancelled": False,
        "ground_truth": False,
        "result": [
            {"id": "x", "from_name": "labels", "to_name": "video", "type": "choices", "origin": "manual"}
            | {"value": {"choices": ["Noisy screenshot", "Lack of motion connectivity"]}}
        ],
    }
    task = {"id": 1, "data": {"clip_id": "a", "video": "/a.mp4"}, "annotations": [annotation], "predictions": []}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with AnnotationStore(tmp_path / "annotations.db") as store:
        assert import_tasks(store, tmp_path / "export.json") == 1
        (event,) = store.annotations()
    assert (event.annotator, event.labels, event.seconds) == ("3", ("static", "screenshot"), 4.2)
    assert event.time == "2026-05-01T12:00:00.123+00:00"


@pytest.mark.parametrize("name", ["tasks.json", "annotations.csv", "annotations.parquet"])
def test_consent_is_exported_and_imported(store, tmp_path, name):
    store.consent("bob")
    store.consent("no answers")
    (export_tasks(store, {}, tmp_path / name) if name == "tasks.json" else export_table(store, tmp_path / name))
    with AnnotationStore(tmp_path / "other.db") as other:
        read = import_tasks if name == "tasks.json" else import_table
        assert read(other, tmp_path / name) == (4 if name == "tasks.json" else 3)
        assert other.consents() == {"bob": store.consents()["bob"]}
        number = len(other.events())
        assert read(other, tmp_path / name) == 0 and len(other.events()) == number


def test_labeling_config_names_the_labels():
    choices = ET.fromstring(LABELING_CONFIG).findall(".//Choice")
    assert [choice.get("value") for choice in choices] == [label.title for label in LABELS.values()]
    assert [choice.get("hotkey") for choice in choices] == list("123456")


@pytest.mark.parametrize("name", ["annotations.csv", "annotations.parquet"])
def test_table_round_trip(store, tmp_path, name):
    assert export_table(store, tmp_path / name) == 3
    with AnnotationStore(tmp_path / "other.db") as other:
        assert import_table(other, tmp_path / name) == 3
        assert contents(other) == [row for row in contents(store) if row[0] != "skip"]
        assert import_table(other, tmp_path / name) == 0


def test_handwritten_table_needs_only_required_columns(tmp_path):
    (tmp_path / "hand.csv").write_text("clip_id,annotator,text\na,ann,true\nb,ann,\n")
    with AnnotationStore(tmp_path / "annotations.db") as store:
        assert import_table(store, tmp_path / "hand.csv") == 2
        assert [(event.clip_id, event.labels) for event in store.annotations()] == [("a", ("text",)), ("b", ())]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clip_id,text\na,true\n", "no column annotator"),
        ("clip_id,annotator\na,ann\n", "no label column"),
        ("clip_id,annotator,text\na,ann,maybe\n", "must be true or false"),
        ("", "damaged, or not an annotation table"),
    ],
)
def test_invalid_tables_are_rejected(tmp_path, content, message):
    (tmp_path / "table.csv").write_text(content)
    with AnnotationStore(tmp_path / "annotations.db") as store:
        with pytest.raises(UserError, match=message):
            import_table(store, tmp_path / "table.csv")
        assert store.events() == []


@pytest.mark.parametrize(
    "content", ["{}", "[{}]", "nonsense", '[{"data": {"clip_id": "a"}, "annotations": [{"result": [{}]}]}]']
)
def test_invalid_exports_are_rejected(tmp_path, content):
    (tmp_path / "export.json").write_text(content)
    with AnnotationStore(tmp_path / "annotations.db") as store, pytest.raises(UserError, match="Label Studio"):
        import_tasks(store, tmp_path / "export.json")


def test_unknown_choices_are_rejected(tmp_path):
    result = [{"type": "choices", "value": {"choices": ["Blurry"]}}]
    (tmp_path / "export.json").write_text(json.dumps([{"data": {"clip_id": "a"}, "annotations": [{"result": result}]}]))
    with AnnotationStore(tmp_path / "annotations.db") as store, pytest.raises(UserError, match="unknown label Blurry"):
        import_tasks(store, tmp_path / "export.json")


def test_table_without_timestamps_is_imported_once_and_keeps_later_annotations(tmp_path):
    (tmp_path / "table.csv").write_text("clip_id,annotator,text\na,007,true\n")
    with AnnotationStore(tmp_path / "annotations.db") as store:
        assert import_table(store, tmp_path / "table.csv") == 1
        assert [event.annotator for event in store.events()] == ["007"], "annotator names are not parsed as numbers"
        store.annotate("a", "007", ["editing"])
        assert import_table(store, tmp_path / "table.csv") == 0
        assert store.majority()["a"]["editing"] and not store.majority()["a"]["text"]
