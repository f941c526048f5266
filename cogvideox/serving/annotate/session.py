"""The answers of annotators, kept in the annotation store, and the clips that are assigned to them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.curation.annotations.store import STORE, AnnotationStore
from cogvideox.curation.labels.definitions import LABELS, check_labels
from cogvideox.curation.labels.predictions import read_predictions
from cogvideox.errors import UserError
from cogvideox.serving.annotate.clips import Clips
from cogvideox.serving.annotate.examples import EXAMPLES
from cogvideox.serving.annotate.feeds import FEEDS, Feed, FeedSettings, Pool, next_clips
from cogvideox.serving.invites import Invites, Person

PREDICTIONS = "labels.parquet"
MAX_SECONDS = 3600.0
IDLE_SECONDS = 600.0
"""Seconds after which clips without an answer are released for other annotators."""


@dataclass
class _Queue:
    clips: list[str] = field(default_factory=list)
    feed: tuple[str, str] = ("", "")
    used: float = 0.0


class AnnotationSession:
    """A curation that is open for annotations. Used by one thread, except for `clips`."""

    def __init__(
        self,
        output: Path,
        raw: Path | None = None,
        settings: FeedSettings | None = None,
        clusters: Sequence[str] = (),
        on_annotation: Callable[[int], None] | None = None,
    ) -> None:
        """Open the output folder of a curation.

        Args:
            clusters: cluster of each clip, in the order of `Clips.by_id`.
            on_annotation: called with the number of annotations after each.

        Raises:
            UserError: the folder has no clips, its store cannot be opened, or another process writes to the store.
        """
        self.output, self.settings = output, settings or FeedSettings()
        self.clips, self.invites = Clips(output, raw), Invites(output)
        self.store = AnnotationStore(output / STORE, wal=True, exclusive=True)
        self._consented = set(self.store.consents())
        self.on_annotation = on_annotation
        self.pool = Pool(list(self.clips.by_id), clusters=clusters, gold=self.store.gold().keys())
        for event in self.store.annotations(skipped=True):
            answers = self.pool.labels.setdefault(event.clip_id, {})
            answers[event.annotator] = event.labels if event.kind == "annotation" else None
        self._queues: dict[str, _Queue] = {}
        self._predictions_version: int | None = None
        self.load_predictions()

    def overview(self, person: Person) -> dict[str, Any]:
        """Return the labels with their definitions and examples, the feeds, and a person's progress."""
        labels = [
            {
                "name": label.name,
                "title": label.title,
                "definition": label.definition,
                "examples": [description for description, _ in EXAMPLES[label.name]],
            }
            for label in LABELS.values()
        ]
        feeds = [feed for feed in FEEDS if self.pool.probabilities or feed not in ("uncertain", "likely")]
        feeds = [feed for feed in feeds if self.pool.clusters or feed != "cluster"]
        consented = person.id in self._consented
        return {"labels": labels, "feeds": feeds, "consented": consented, **self._progress(person)}

    def consent(self, person: Person) -> None:
        """Record that a person agreed to the text of the first dialog."""
        self.store.consent(person.id)
        self._consented.add(person.id)

    def next(self, person: Person, count: int, feed: Feed = "mixed", label: str = "") -> list[dict[str, Any]]:
        """Return the next clips of a person, with the person's earlier answer after an undo."""
        self._check_consent(person)
        if label and label not in LABELS:
            raise UserError(f"unknown label {label}")
        self.load_predictions()
        now = time.monotonic()
        queue = self._queues.setdefault(person.id, _Queue())
        if queue.feed != (feed, label):
            queue.clips, queue.feed = queue.clips[:1] if queue.feed == ("", "") else [], (feed, label)
        queue.used = now
        self._queues = {id: other for id, other in self._queues.items() if now - other.used < IDLE_SECONDS}
        reserved = {clip for other in self._queues.values() for clip in other.clips}
        missing = count - len(queue.clips)
        if missing > 0:
            queue.clips += next_clips(self.pool, person.id, reserved, missing, self.settings, feed, label)
        return [{"clip": clip, "video": f"/clips/{clip}.mp4"} for clip in queue.clips[:count]]

    def annotate(
        self, person: Person, clip: str, labels: Sequence[str], unsure: bool, seconds: float
    ) -> dict[str, Any]:
        """Store an answer durably, and return the progress.

        Raises:
            UserError: the clip was not assigned to this person, or a label is unknown.
        """
        self._check_consent(person)
        queue = self._queues.get(person.id)
        if queue is None or clip not in queue.clips:
            raise UserError("this clip is not one of your next: reload the page")
        checked = () if unsure else check_labels(labels)
        kind = "skip" if unsure else "annotation"
        self.store.annotate(clip, person.id, checked, kind=kind, seconds=round(min(max(seconds, 0), MAX_SECONDS), 2))
        queue.clips.remove(clip)
        self.pool.labels.setdefault(clip, {})[person.id] = None if unsure else checked
        if self.on_annotation is not None:
            self.on_annotation(sum(map(len, self.pool.labels.values())))
        return self._progress(person)

    def undo(self, person: Person) -> dict[str, Any]:
        """Cancel a person's last answer. The clip is shown next, with the cancelled labels."""
        self._check_consent(person)
        event = self.store.undo(person.id)
        if event is None:
            return {**self._progress(person), "clip": None, "labels": []}
        valid = [e for e in self.store.annotations(event.clip_id, skipped=True) if e.annotator == person.id]
        answers = self.pool.labels.get(event.clip_id, {})
        answers.pop(person.id, None)
        for earlier in valid:
            answers[person.id] = earlier.labels if earlier.kind == "annotation" else None
        queue = self._queues.setdefault(person.id, _Queue(used=time.monotonic()))
        if event.clip_id in self.clips.by_id:
            queue.clips = [event.clip_id, *(clip for clip in queue.clips if clip != event.clip_id)]
        return {**self._progress(person), "clip": event.clip_id, "labels": event.labels}

    def may_see(self, person: Person, clip: str) -> bool:
        """Return whether a clip was assigned to a person, or answered by this person."""
        queue = self._queues.get(person.id)
        return (queue is not None and clip in queue.clips) or person.id in self.pool.labels.get(clip, {})

    def load_predictions(self) -> None:
        """Read the predictions if they are new. A damaged file is ignored: `labels predict` reports it."""
        path = self.output / PREDICTIONS
        try:
            version = path.stat().st_mtime_ns
        except OSError:
            return
        if version != self._predictions_version:
            self._predictions_version = version
            try:
                self.pool.probabilities, self.pool.thresholds = read_predictions(path, self.pool.ids)
            except UserError:
                return

    def _check_consent(self, person: Person) -> None:
        if person.id not in self._consented:
            raise UserError("the consent is missing: reload the page")

    def _progress(self, person: Person) -> dict[str, Any]:
        done = sum(person.id in answers for answers in self.pool.labels.values())
        return {"done": done, "total": len(self.pool.ids)}
