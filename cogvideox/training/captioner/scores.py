"""Scores of captions: facts of toybox scenes that they state, checks and similarity to references."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from cogvideox.curation.captions.facts import ClipFacts
from cogvideox.curation.captions.quality.checks import CheckConfig, check_caption, remove_opener
from cogvideox.curation.captions.quality.similarity import rouge_l
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.scenes.grammar import COUNTS, TOY_FACTS, Scene, fact_name

DEFAULT_FACTS = {"pattern": "plain", "camera": "still", "light": "day"}
"""Facts that captions may omit."""


def stated_facts(caption: str, facts: Mapping[str, str]) -> dict[str, bool]:
    """Return for each fact whether the caption states it, under the best assignment of the named to the true toys."""
    stated = parse_prompt(caption, "full")
    count, named = 0, 0
    while any(fact_name(name, count + 1) in facts for name in TOY_FACTS):
        count += 1
    while any(fact_name(name, named + 1) in stated for name in TOY_FACTS):
        named += 1
    best: dict[str, bool] = {}
    for order in itertools.permutations(range(1, max(count, named) + 1), count):
        verdict = {
            fact_name(name, toy): stated.get(fact_name(name, other)) == facts[fact_name(name, toy)]
            for toy, other in enumerate(order, start=1)
            for name in TOY_FACTS
            if fact_name(name, toy) in facts
        }
        if not best or sum(verdict.values()) > sum(best.values()):
            best = verdict
    return best | {name: stated.get(name) == word for name, word in facts.items() if name.split()[0] not in TOY_FACTS}


def scene_facts(scene: Scene) -> dict[str, str]:
    """Return the facts that a complete caption of a scene states: all but a plain floor, daylight or a fixed camera."""
    facts = {name: word for name, word in scene.facts.items() if DEFAULT_FACTS.get(name) != word}
    return facts | {"count": COUNTS[len(scene.toys) - 1]}


def usable(caption: str, checks: CheckConfig, max_words: int, cut_off: bool = False) -> bool:
    """Return whether a caption passes the checks that need no measurements, after its opener is removed."""
    reason = "length" if cut_off else "stop"
    return not check_caption(
        remove_opener(caption),
        ClipFacts(),
        checks,
        count_tokens=checks.counter(),
        max_words=max_words,
        finish_reason=reason,
        error=None,
    )


def mean_rouge_l(captions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean ROUGE-L of captions to their references."""
    return float(np.mean([rouge_l(*pair) for pair in zip(captions, references, strict=True)]))
