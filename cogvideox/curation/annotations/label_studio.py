"""Import and export of tasks and annotations in the JSON format of Label Studio.

A Label Studio project with `LABELING_CONFIG` imports the exported tasks with their annotations. `import_tasks` reads
the JSON export of the project. Labels are named by their titles in `LABELS`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import write_text
from cogvideox.curation.annotations.store import AnnotationStore, Event, normalize, now
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, read_text, reading

LABELING_CONFIG = "\n".join(
    [
        "<View>",
        '  <Video name="video" value="$video"/>',
        '  <Choices name="labels" toName="video" choice="multiple" showInline="true">',
        *(
            f'    <Choice value="{label.title}" hint="{label.definition}" hotkey="{number}"/>'
            for number, label in enumerate(LABELS.values(), 1)
        ),
        "  </Choices>",
        "</View>",
    ]
)
"""Labeling interface of a Label Studio project, with the hotkeys 1 to 6."""

_BY_TITLE = {label.title: name for name, label in LABELS.items()}


def export_tasks(store: AnnotationStore, videos: Mapping[str, str], path: str | Path) -> int:
    """Write a JSON list of tasks with their annotations, and return the number of tasks.

    The field `consent` of an annotation is the time of its annotator's consent, if there is one.

    Args:
        videos: URL or path of each clip's video, by clip id; other annotated clips are written without a video.
    """
    consents = store.consents()
    events_by_clip: dict[str, list[Event]] = defaultdict(list)
    for event in store.annotations(skipped=True):
        events_by_clip[event.clip_id].append(event)
    gold = [event for event in store.events() if event.kind == "gold"]
    for clip_id in store.gold():
        events_by_clip[clip_id].append(next(event for event in reversed(gold) if event.clip_id == clip_id))
    tasks = [
        {
            "data": {"clip_id": clip_id, "video": videos.get(clip_id, "")},
            "annotations": [_annotation(event, consents) for event in events_by_clip[clip_id]],
        }
        for clip_id in dict.fromkeys([*videos, *events_by_clip])
    ]
    write_text(path, json.dumps(tasks, indent=1) + "\n")
    return len(tasks)


def import_tasks(store: AnnotationStore, path: str | Path) -> int:
    """Append the annotations of a Label Studio JSON export, and return the number of new annotations.

    Annotations that the store already has (same clip, annotator, time and labels) are skipped, so that a file can be
    imported again.

    Raises:
        UserError: the file is not a Label Studio export, or has unknown labels.
    """
    path = Path(path)
    with reading(path, "not a Label Studio JSON export"):
        tasks = parse_json(read_text(path))
        if not isinstance(tasks, list):
            raise UserError(f"cannot read {path}: a Label Studio JSON export is a list of tasks")
        events, consents = [], {}
        for task in tasks:
            clip_id = task["data"]["clip_id"]
            for annotation in task.get("annotations", []):
                event = _event(clip_id, annotation)
                events.append(event)
                if consent := annotation.get("consent"):
                    consents[event.annotator] = consent
    return append_new(store, events, consents)


def append_new(store: AnnotationStore, events: list[Event], consents: Mapping[str, str]) -> int:
    """Append the events and consents that the store does not have yet, and return the number of events.

    Args:
        consents: time of each annotator's consent; missing without one.

    An event without a time (time="") is new if the store has no event with the same kind, clip, annotator and labels.
    """

    def key(event: Event) -> tuple[Any, ...]:
        return event.kind, event.clip_id, event.annotator, event.time, event.labels

    stored, timestamp = store.events(), now()
    known = {key(event) for event in stored} | {key(replace(event, time="")) for event in stored}
    new = {}
    for event in events:
        complete = normalize(event if event.time else replace(event, time=timestamp))
        comparable = complete if event.time else replace(complete, time="")
        if key(comparable) not in known:
            new[key(comparable)] = complete
    missing = consents.keys() - store.consents().keys()
    new_consents = [Event(0, "consent", "", annotator, (), consents[annotator]) for annotator in sorted(missing)]
    return len(store.append([*new_consents, *new.values()])) - len(new_consents)


def _annotation(event: Event, consents: Mapping[str, str]) -> dict[str, Any]:
    choices = [LABELS[name].title for name in event.labels]
    result = {"from_name": "labels", "to_name": "video", "type": "choices", "value": {"choices": choices}}
    return {
        "completed_by": {"email": event.annotator},
        "created_at": event.time,
        "lead_time": event.seconds,
        "was_cancelled": event.kind == "skip",
        "ground_truth": event.kind == "gold",
        "result": [result] if choices else [],
        **({"consent": consents[event.annotator]} if event.annotator in consents else {}),
    }


def _event(clip_id: str, annotation: Mapping[str, Any]) -> Event:
    completed = annotation.get("completed_by", "unknown")
    annotator = completed.get("email") or completed.get("id") if isinstance(completed, dict) else completed
    parts = [part for part in annotation.get("result", []) if part["type"] == "choices"]
    titles = [title for part in parts for title in part["value"]["choices"]]
    if unknown := sorted(set(titles) - set(_BY_TITLE)):
        raise UserError(f"unknown label {', '.join(unknown)}; the labels are {', '.join(_BY_TITLE)}")
    kind = "skip" if annotation.get("was_cancelled") else "gold" if annotation.get("ground_truth") else "annotation"
    labels = () if kind == "skip" else tuple(_BY_TITLE[title] for title in titles)
    time = (annotation.get("created_at") or "").replace("Z", "+00:00")
    return Event(0, kind, str(clip_id), str(annotator), labels, time, annotation.get("lead_time"))
