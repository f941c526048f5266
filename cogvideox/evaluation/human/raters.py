"""Statistics of each rater: bias, self-agreement, accuracy on gold items, sides and pace."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from cogvideox.evaluation.human.rubric import CRITERIA, TOTAL
from cogvideox.evaluation.human.study.protocol import Item, Study
from cogvideox.evaluation.human.study.store import Event

_OPPOSITE = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class RaterSummary:
    """Statistics of a rater; None without data.

    Attributes:
        num_votes: votes on normal items, without repeats.
        bias: mean difference of the rater's scores (0 to 1) from the mean of the others on the same videos.
        left: fraction of "left" among the answers "left" and "right".
        self_agreement: fraction of equal answers to repeated items.
        gold: fraction of correct answers to gold items.
        seconds: median time per vote.
    """

    rater: str
    num_votes: int
    bias: float | None
    left: float | None
    self_agreement: float | None
    gold: float | None
    seconds: float | None


def summarize_raters(study: Study, votes: Sequence[Event]) -> list[RaterSummary]:
    """Return the statistics of all raters, from the valid votes."""
    items = {item.id: item for item in study.items}
    first, repeats = split_repeats(votes, items)
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for vote in first:
        if study.mode == "single" and vote.answer is not None:
            scores[str(vote.item)][vote.rater] = fmean(float(vote.answer[name]) for name in CRITERIA)
    summaries = []
    for rater in dict.fromkeys(vote.rater for vote in votes):
        rater_votes = [vote for vote in first if vote.rater == rater]
        biases = [
            by_rater[rater] - fmean(value for name, value in by_rater.items() if name != rater)
            for by_rater in scores.values()
            if rater in by_rater and len(by_rater) > 1
        ]
        sides = [choice for vote in rater_votes for choice in (vote.answer or {}).values() if choice in _OPPOSITE]
        agreements = [
            agreement for vote, repeat in repeats if vote.rater == rater for agreement in _equal(vote, repeat)
        ]
        gold = [
            is_correct(vote, items[str(vote.item)])
            for vote in votes
            if vote.rater == rater and items[str(vote.item)].kind == "gold"
        ]
        times = [vote.seconds for vote in rater_votes if vote.seconds is not None]
        summaries.append(
            RaterSummary(
                rater,
                len(rater_votes),
                fmean(biases) if biases else None,
                fmean(side == "left" for side in sides) if sides else None,
                fmean(agreements) if agreements else None,
                fmean(gold) if gold else None,
                median(times) if times else None,
            )
        )
    return summaries


def split_repeats(votes: Sequence[Event], items: Mapping[str, Item]) -> tuple[list[Event], list[tuple[Event, Event]]]:
    """Return the first vote of each rater on each normal item, and the pairs of (first vote, repeat)."""
    first: dict[tuple[str, str | None], Event] = {}
    repeats = []
    for vote in sorted(votes, key=lambda vote: (vote.rater, vote.position or 0)):
        if items[str(vote.item)].kind != "normal":
            continue
        if (vote.rater, vote.item) in first:
            repeats.append((first[vote.rater, vote.item], vote))
        else:
            first[vote.rater, vote.item] = vote
    return sorted(first.values(), key=lambda vote: vote.number), repeats


def unswapped(vote: Event) -> dict[str, Any]:
    """Return the choices of a vote with the first video of the item as "left"."""
    answer = vote.answer or {}
    return {name: _OPPOSITE.get(choice, choice) if vote.swapped else choice for name, choice in answer.items()}


def is_correct(vote: Event, item: Item) -> bool:
    """Return whether a vote gives the known answers of an item. Known scores are upper limits."""
    known, answer = item.answer or {}, vote.answer or {}
    choices = unswapped(vote)
    return all(
        choices[name] == value if isinstance(value, str) else answer[name] <= value for name, value in known.items()
    )


def _equal(vote: Event, repeat: Event) -> list[bool]:
    first, second = unswapped(vote), unswapped(repeat)
    return [first[name] == second[name] for name in first if name != TOTAL]
