"""Feeds: which clip an annotator gets next (feeds as in the Netflix Video Annotator, arXiv 2402.06560).

| feed | clips |
|---|---|
| `random` | random order, different for each annotator |
| `uncertain` | nearest to a decision threshold of the label model first |
| `likely` | likely positives of each label in turn, or of one label |
| `disagreement` | annotated clips whose annotators disagree, or whose annotation the model contradicts |
| `cluster` | clusters of similar clips with the fewest annotations first |
| `mixed` | in turn: uncertain, random, uncertain, likely, disagreement; random without predictions |

Every clip goes to one annotator, and a fraction of the clips (`overlap`) to two; the feed `disagreement` adds another
one. Gold items are mixed in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.errors import UserError

Feed = Literal["mixed", "random", "uncertain", "likely", "disagreement", "cluster"]
FEEDS: tuple[Feed, ...] = get_args(Feed)
_MIXED: tuple[Feed, ...] = ("uncertain", "random", "uncertain", "likely", "disagreement")
MAX_ANNOTATORS = 3
_CONTRADICTION = 0.7
"""A model contradicts an annotation if its probability differs by more than this."""


@dataclass(frozen=True)
class FeedSettings:
    """Settings of the order of clips.

    Attributes:
        overlap: fraction of the clips that two people annotate.
        gold: fraction of gold items among the clips of an annotator, while there are unanswered ones.
        seed: seed of the orders.
    """

    overlap: float = 0.1
    gold: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.overlap <= 1 and 0 <= self.gold <= 1):
            raise UserError("overlap and gold must be from 0 to 1")


@dataclass
class Pool:
    """Clips with their annotations and predictions.

    Attributes:
        ids: all clips.
        labels: annotated labels by clip and annotator; None for "unsure".
        gold: clips with known labels.
        probabilities: predicted probabilities by label, in the order of `ids`; NaN if unknown.
        thresholds: decision thresholds by label.
        clusters: cluster of each clip, in the order of `ids`; empty without clusters.
    """

    ids: Sequence[str]
    labels: dict[str, dict[str, tuple[str, ...] | None]] = field(default_factory=dict)
    gold: AbstractSet[str] = frozenset()
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    clusters: Sequence[str] = ()
    _orders: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def units(self, salt: str) -> np.ndarray:
        """Return a number from 0 to 1 for each clip that is a function of `salt` and the clip."""
        if salt not in self._orders:
            self._orders[salt] = np.array([_unit(f"{salt} {clip}") for clip in self.ids])
        return self._orders[salt]

    def annotators(self, clip: str) -> int:
        """Return the number of people who labeled a clip."""
        return sum(labels is not None for labels in self.labels.get(clip, {}).values())


def next_clips(
    pool: Pool,
    annotator: str,
    reserved: AbstractSet[str],
    count: int,
    settings: FeedSettings,
    feed: Feed = "mixed",
    label: str = "",
) -> list[str]:
    """Return up to `count` clips for an annotator.

    Args:
        reserved: clips that others are about to annotate, which count as annotated once more, and clips that this
            annotator already has.
        label: label of the feed `likely`; "" uses all labels in turn.
    """
    answered = {clip for clip, answers in pool.labels.items() if annotator in answers}
    order = np.argsort(pool.units(f"{settings.seed} {annotator}"), kind="stable")
    required = np.where(pool.units(f"{settings.seed}") < settings.overlap, 2, 1)
    answers = np.array([pool.annotators(clip) for clip in pool.ids])
    free = np.array([clip not in answered and clip not in reserved and clip not in pool.gold for clip in pool.ids])
    scores = {name: _scores(pool, name, label, answers) for name in FEEDS if name != "mixed"}
    gold = [clip for clip in pool.ids if clip in pool.gold and clip not in answered and clip not in reserved]
    gold.sort(key=lambda clip: _unit(f"gold {settings.seed} {annotator} {clip}"))
    chosen: list[str] = []
    for step in range(len(answered), len(answered) + count):
        if gold and _unit(f"gold {settings.seed} {annotator} {step}") < settings.gold:
            chosen.append(gold.pop(0))
            continue
        name = _MIXED[step % len(_MIXED)] if feed == "mixed" and pool.probabilities else feed
        feeds: tuple[Feed, ...] = (name, "random") if feed == "mixed" else (name,)
        for current_feed in feeds:
            score = scores["random" if current_feed == "mixed" else current_feed]
            if current_feed == "likely" and not label and len(score):
                score = score[step % len(score)]
            elif current_feed == "likely" and len(score):
                score = score[0]
            needs_answer = answers < (MAX_ANNOTATORS if current_feed == "disagreement" else required)
            allowed = order[(free & needs_answer & np.isfinite(score))[order]] if len(score) else order[:0]
            if len(allowed):
                index = int(allowed[np.argmax(score[allowed])])
                free[index] = False
                chosen.append(pool.ids[index])
                break
        else:
            break
    return chosen


def _scores(pool: Pool, feed: Feed, label: str, answers: np.ndarray) -> np.ndarray:
    """Return the priority of each clip; NaN if a clip is not in the feed. `likely` has a row for each label."""
    nothing = np.full(len(pool.ids), np.nan)
    if feed == "random":
        return np.zeros(len(pool.ids))
    if feed == "cluster":
        if not pool.clusters:
            return nothing
        annotated: dict[str, int] = {}
        for cluster, number in zip(pool.clusters, answers):
            annotated[cluster] = annotated.get(cluster, 0) + int(number > 0)
        return np.array([-float(annotated[cluster]) if cluster else np.nan for cluster in pool.clusters])
    if feed == "likely":
        names = [label] if label else list(pool.probabilities)
        return np.array([pool.probabilities.get(name, nothing) for name in names])
    if feed == "uncertain":
        margins = []
        for name, values in pool.probabilities.items():
            threshold = min(max(pool.thresholds[name], 1e-3), 1 - 1e-3)
            side = np.where(values > threshold, 1 - threshold, threshold)
            margins.append(np.abs(values - threshold) / side)
        return -np.min(margins, axis=0) if margins else nothing
    scores = nothing.copy()
    position = {clip: index for index, clip in enumerate(pool.ids)}
    for clip, by_annotator in pool.labels.items():
        sets = [labels for labels in by_annotator.values() if labels is not None]
        if clip in position and sets:
            scores[position[clip]] = _disagreement(pool, position[clip], sets)
    return scores


def _disagreement(pool: Pool, index: int, sets: Sequence[tuple[str, ...]]) -> float:
    """Return how much annotators disagree about a clip, or else the model with them; NaN if they agree."""
    votes = {name: np.mean([name in labels for labels in sets]) for name in LABELS}
    conflict = max(min(vote, 1 - vote) for vote in votes.values())
    if conflict > 0:
        return 1 + float(conflict)
    differences = [abs(votes[name] - values[index]) for name, values in pool.probabilities.items()]
    largest = max((float(value) for value in differences if np.isfinite(value)), default=0.0)
    return largest if largest > _CONTRADICTION else np.nan


def _unit(text: str) -> float:
    """Return a number from 0 to 1 that is a function of a string."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
