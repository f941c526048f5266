"""The protocol of a study: what is shown to whom under which rules. It is fixed and hashed before the first vote.

A study folder contains:

| file | content |
|---|---|
| `study.json` | the protocol; models are codes |
| `key.json` | the names of the models, by code; its hash is part of the protocol |
| `secret` | random bytes from which the names of files in the browser are derived |
| `videos/` | copies of the videos with random names and without metadata |
| `ratings.db` | the votes |
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.evaluation.human.rubric import CRITERIA, OVERALL
from cogvideox.untrusted.files import read_json

STUDY, KEY, SECRET, VIDEOS, RATINGS = "study.json", "key.json", "secret", "videos", "ratings.db"

Mode = Literal["single", "pair"]
ItemKind = Literal["normal", "gold", "training"]


@dataclass(frozen=True)
class Item:
    """A video to rate, or a pair of videos to compare.

    Attributes:
        id: random name.
        prompt: prompt of the videos.
        videos: names of files in `videos/`; one, or two for a pair.
        models: code of the model of each video; empty for training items.
        kind: normal; gold: an item with a known answer, mixed with the others; training: shown first and explained.
        answer: known answers by question, of gold and training items: upper limits of scores, or choices.
        explanation: reason for the answer, shown after a training item.
    """

    id: str
    prompt: str
    videos: tuple[str, ...]
    models: tuple[str, ...] = ()
    kind: ItemKind = "normal"
    answer: dict[str, float | str] | None = None
    explanation: str = ""


@dataclass(frozen=True)
class Study:
    """A protocol.

    Attributes:
        title: title on the page; does not name models.
        mode: "single": each video is rated by the four criteria; "pair": pairs of videos of one prompt are compared.
        questions: questions about a pair, of the criteria and "overall"; empty for single videos.
        items: all items; the order is random for each rater.
        models: hash of the videos of each model, by code.
        key_hash: SHA-256 of `key.json`.
        items_per_rater: number of normal items of each rater; 0: all.
        repeat_fraction: fraction of the items of a rater that is shown again, with sides swapped.
        num_raters: planned number of raters.
        stop_rule: when the study ends.
        consent: text that raters agree to.
        seed: seed of the order.
    """

    title: str
    mode: Mode
    questions: tuple[str, ...]
    items: tuple[Item, ...]
    models: dict[str, str]
    key_hash: str
    items_per_rater: int = 0
    repeat_fraction: float = 0.1
    num_raters: int = 8
    stop_rule: str = "every rater answers all items; no early stop"
    consent: str = (
        "Your answers are stored under the id of your invitation and are used to evaluate video models. "
        "You can stop at any time."
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.repeat_fraction <= 1:
            raise UserError(f"repeat_fraction={self.repeat_fraction} must be from 0 to 1")
        config.check_minimum(self, items_per_rater=0, num_raters=1)
        unknown = sorted(set(self.questions) - {*CRITERIA, OVERALL})
        if unknown or (self.mode == "pair") != bool(self.questions):
            raise UserError(
                f"questions={self.questions} must be of {', '.join(CRITERIA)} and {OVERALL}, for pairs only"
            )
        if any(len(item.videos) != (2 if self.mode == "pair" else 1) for item in self.items):
            raise UserError(f"an item of the mode {self.mode} has a wrong number of videos")

    @property
    def hash(self) -> str:
        """SHA-256 of the protocol as JSON with sorted keys."""
        data = json.dumps(config.to_dict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(data.encode()).hexdigest()

    def items_of(self, kind: ItemKind) -> list[Item]:
        """Return the items of a kind, in the order of the protocol."""
        return [item for item in self.items if item.kind == kind]


def read_study(folder: str | Path) -> Study:
    """Read the protocol of a study.

    Raises:
        UserError: the folder is not a study, or its files were changed since it was planned.
    """
    path = Path(folder) / STUDY
    if not path.is_file():
        raise UserError(f"{folder} is not a study: `cogvideox rate plan {folder}` creates one")
    data = read_json(path)
    study = config.from_dict(Study, data.get("protocol", {}), where=str(path))
    if data.get("hash") != study.hash:
        raise UserError(
            f"{path} was changed after it was planned (its hash is different): restore it, or plan a new study"
        )
    return study


def to_json(study: Study) -> str:
    """Return the content of `study.json`: the protocol and its hash."""
    return json.dumps({"hash": study.hash, "protocol": config.to_dict(study)}, indent=1, ensure_ascii=False) + "\n"


def read_key(folder: str | Path, study: Study) -> Mapping[str, Any]:
    """Return name and folder of each model by code. Raises UserError if the key is not that of the protocol."""
    path = Path(folder) / KEY
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != study.key_hash:
        raise UserError(
            f"{path} is missing or was changed after the study was planned: restore it from a copy of the study"
        )
    return read_json(path)
