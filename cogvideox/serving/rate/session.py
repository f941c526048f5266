"""Tasks of a rater without model names or item kinds, and video files under names unique to the rater."""

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.evaluation.human.raters import unswapped
from cogvideox.evaluation.human.rubric import (
    CHOICES,
    CRITERIA,
    LEVELS,
    MAX_TOTAL_AGAINST_INSTRUCTION,
    OVERALL,
    OVERALL_QUESTION,
    TOTALS,
    check_choices,
    check_scores,
)
from cogvideox.evaluation.human.study.protocol import RATINGS, SECRET, VIDEOS, read_study
from cogvideox.evaluation.human.study.schedule import Task, tasks_of
from cogvideox.evaluation.human.study.store import Event, RatingStore
from cogvideox.serving.invites import Invites, Person

MAX_SECONDS = 3600.0
"""Maximum time between display and answer that is recorded, in seconds."""


@dataclass
class _Rater:
    """State of a rater, derived from the events."""

    tasks: list[Task]
    names: list[tuple[str, ...]]
    """Name of each video in the browser, by task and side."""
    votes: dict[int, Event] = field(default_factory=dict)
    consented: bool = False

    @property
    def position(self) -> int:
        """Position of the next task; the number of tasks if all are done."""
        return next((task.position for task in self.tasks if task.position not in self.votes), len(self.tasks))


class RatingSession:
    """A study that is open for votes. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Open a study folder. Raises UserError if it is not a study or was changed."""
        self.folder, self.study, self.invites = folder, read_study(folder), Invites(folder)
        self.store = RatingStore(folder / RATINGS, self.study.hash)
        self._secret = (folder / SECRET).read_bytes()
        self._raters: dict[str, _Rater] = {}
        self._files: dict[str, tuple[str, Path]] = {}

    def overview(self, person: Person) -> dict[str, Any]:
        """Return what the page shows before the first task."""
        state, study = self._state(person), self.study
        criteria = [
            {"name": c.name, "title": c.title, "question": c.question, "levels": c.levels} for c in CRITERIA.values()
        ]
        if study.mode == "pair":
            overall = {"name": OVERALL, "title": "Overall", "question": OVERALL_QUESTION, "levels": []}
            by_name = {criterion["name"]: criterion for criterion in [*criteria, overall]}
            criteria = [by_name[name] for name in study.questions]
        return {
            "title": study.title,
            "mode": study.mode,
            "consent": study.consent,
            "consented": state.consented,
            "criteria": criteria,
            "levels": LEVELS,
            "totals": TOTALS,
            "max_total": MAX_TOTAL_AGAINST_INSTRUCTION,
            "choices": CHOICES,
            "closed": self.store.is_closed(),
            **self._progress(state),
        }

    def consent(self, person: Person) -> None:
        """Record that a person agreed to the consent text."""
        state = self._state(person)
        if not state.consented:
            self.store.append("consent", person.id)
            state.consented = True

    def tasks(self, person: Person, count: int) -> list[dict[str, Any]]:
        """Return a rater's next tasks. They do not reveal gold items and repeats."""
        state = self._open(person)
        upcoming = [task for task in state.tasks[state.position :] if task.position not in state.votes][:count]
        return [
            {
                "position": task.position,
                "prompt": task.item.prompt,
                "videos": [f"/media/{name}.mp4" for name in state.names[task.position]],
                "training": task.item.kind == "training",
            }
            for task in upcoming
        ]

    def vote(self, person: Person, position: int, answer: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Record a vote, and return the progress, and after a training item its explanation.

        Raises:
            UserError: the answer is invalid, or the task is not the rater's next one.
        """
        state = self._open(person)
        if position != state.position or position >= len(state.tasks):
            raise UserError("this is not your next item: reload the page")
        task = state.tasks[position]
        checked: dict[str, Any] = (
            check_scores(answer) if self.study.mode == "single" else check_choices(answer, self.study.questions)
        )
        event = self.store.append(
            "vote",
            person.id,
            position=position,
            item=task.item.id,
            swapped=task.swapped,
            answer=checked,
            seconds=round(min(max(seconds, 0.0), MAX_SECONDS), 2),
        )
        state.votes[position] = event
        result: dict[str, Any] = self._progress(state)
        if task.item.kind == "training":
            known = Event(0, "vote", "", "", swapped=task.swapped, answer=dict(task.item.answer or {}))
            result["training"] = {"expected": unswapped(known), "explanation": task.item.explanation}
        return result

    def undo(self, person: Person) -> dict[str, Any]:
        """Cancel a rater's last vote, and return the progress."""
        state = self._open(person)
        if state.votes:
            last = state.votes.pop(max(state.votes))
            self.store.append("undo", person.id, position=last.position, item=last.item)
        return self._progress(state)

    def file(self, person: Person, name: str) -> Path | None:
        """Return the video with a name that this rater has; None if there is none."""
        self._state(person)
        owner, path = self._files.get(name, ("", Path()))
        return path if owner == person.id else None

    def _open(self, person: Person) -> _Rater:
        state = self._state(person)
        if not state.consented:
            raise UserError("the consent is missing: reload the page")
        if self.store.is_closed():
            raise UserError("the study has ended")
        return state

    def _progress(self, state: _Rater) -> dict[str, Any]:
        return {"position": state.position, "done": len(state.votes), "total": len(state.tasks)}

    def _state(self, person: Person) -> _Rater:
        if person.id not in self._raters:
            tasks = tasks_of(self.study, person.id, person.number)
            names = [tuple(self._name(person, task, side) for side in range(len(task.item.videos))) for task in tasks]
            state = _Rater(tasks, names)
            for task, hidden in zip(tasks, names):
                shown = task.item.videos[::-1] if task.swapped else task.item.videos
                for name, video in zip(hidden, shown):
                    self._files[name] = person.id, self.folder / VIDEOS / video
            events = self.store.events(person.id)
            state.consented = any(event.kind == "consent" for event in events)
            state.votes = {event.position or 0: event for event in self.store.votes(person.id)}
            self._raters[person.id] = state
        return self._raters[person.id]

    def _name(self, person: Person, task: Task, side: int) -> str:
        message = f"{person.id} {task.position} {side}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:24]
