"""Score videos against scenes or prompts, without a learned model: facts are recovered from pixels and compared.

Scenes of the core grammar are read by `judge.core`, which expects a single toy. Scenes of the full grammar are read by
`judge.full`, which counts toys and also reads floor, light and camera. Facts are keyed as in `Scene.facts`. A fact that
cannot be read counts as wrong. Observed toys are assigned to expected toys so that most facts are correct.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from cogvideox.records import Score
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.judge.core import read_facts
from cogvideox.toybox.judge.full import SceneReading, read_scenes
from cogvideox.toybox.scenes.grammar import FACTS, TOY_FACTS, ObservedFacts, Scene, fact_name

TEMPORAL_FACTS = ("motion", "camera")
"""Facts that a single frame does not show."""


@dataclass(frozen=True)
class FactCheck:
    """One fact of a prompt: the expected word, and the observed one (None if it cannot be read)."""

    expected: str
    observed: str | None

    @property
    def correct(self) -> bool:
        """Whether the video shows the expected word."""
        return self.expected == self.observed


def judge_clips(
    videos: UInt8[Tensor, "b t h w 3"], expected: Sequence[Scene | Mapping[str, str]], grammar: str = "core"
) -> list[dict[str, bool]]:
    """Judge every clip against its scene, or against the facts that its prompt names (`caption.parse_prompt`).

    Clips are read in the grammar of their scene; clips given as prompt facts use `grammar`. Motion and camera of a
    single frame are not judged.

    Returns:
        For each clip, whether each named fact is correct.
    """
    if len(videos) != len(expected):
        raise ValueError(f"{len(videos)} videos and {len(expected)} scenes: there must be one scene per video")
    facts = [target.facts if isinstance(target, Scene) else target for target in expected]
    full = [(target.grammar if isinstance(target, Scene) else grammar) == "full" for target in expected]
    verdicts: list[dict[str, bool]] = [{} for _ in expected]
    for read_as_full in (False, True):
        chosen = [i for i, is_full in enumerate(full) if is_full == read_as_full]
        if not chosen:
            continue
        readings = read_scenes(videos[chosen]) if read_as_full else read_facts(videos[chosen])
        for i, reading in zip(chosen, readings):
            observed = _match_toys(reading, facts[i]) if isinstance(reading, SceneReading) else reading
            verdicts[i] = {name: observed[name] == word for name, word in facts[i].items() if _visible(name, videos)}
    return verdicts


def judge_clip(
    frames: UInt8[Tensor, "t h w 3"], expected: Scene | Mapping[str, str], grammar: str = "core"
) -> dict[str, bool]:
    """Judge a single clip: see `judge_clips`."""
    return judge_clips(frames[None], [expected], grammar)[0]


def judge_prompt(frames: UInt8[Tensor, "t h w 3"], prompt: str) -> dict[str, FactCheck]:
    """Judge a clip against a free-form prompt in the full grammar, which includes the core grammar.

    Returns:
        A check for each fact that the prompt names; empty if it names no toybox facts.
    """
    expected = parse_prompt(prompt, "full")
    observed = _match_toys(read_scenes(frames[None])[0], expected)
    return {name: FactCheck(word, observed[name]) for name, word in expected.items() if _visible(name, frames[None])}


def fact_accuracies(verdicts: Sequence[Mapping[str, bool]]) -> dict[str, Score]:
    """Compute the accuracy of each fact, and under `all` the fraction of clips whose facts are all correct.

    The facts of all toys are counted together: `color` includes `color 2`. Facts that were judged for no clip are
    omitted, and so are clips without a judged fact.
    """
    results: dict[str, list[bool]] = {name: [] for name in FACTS["full"]}
    for verdict in verdicts:
        for name, correct in verdict.items():
            results[name.split()[0]].append(correct)
    results["all"] = [all(verdict.values()) for verdict in verdicts if verdict]
    return {name: _accuracy(name, correct) for name, correct in results.items() if correct}


def _accuracy(name: str, correct: Sequence[bool]) -> Score:
    """Return a proportion with its 95% Wilson score interval (Wilson 1927)."""
    z, total = 1.96, len(correct)
    p = sum(correct) / total
    center = (p + z * z / (2 * total)) / (1 + z * z / total)
    half_width = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return Score(
        metric=f"toybox/{name}",
        value=p,
        interval=(max(0.0, center - half_width), min(1.0, center + half_width)),
        protocol={"judge": "cogvideox.toybox.judge", "num_clips": total, "interval": "Wilson, 95 %"},
    )


def _match_toys(reading: SceneReading, expected: Mapping[str, str]) -> ObservedFacts:
    """Return the observed value of each expected fact, under the best assignment of observed to expected toys."""
    count = 0
    while any(fact_name(name, count + 1) in expected for name in TOY_FACTS):
        count += 1
    missing: ObservedFacts = dict.fromkeys(TOY_FACTS)
    toys = [*reading.toys, *[missing] * (count - len(reading.toys))]

    def num_correct(order: Sequence[ObservedFacts]) -> int:
        return sum(
            expected.get(fact_name(name, i), "") == toy[name]
            for i, toy in enumerate(order, start=1)
            for name in TOY_FACTS
        )

    best = max(itertools.permutations(toys, count), key=num_correct)
    observed = {fact_name(name, i): toy[name] for i, toy in enumerate(best, start=1) for name in TOY_FACTS}
    return observed | reading.facts


def _visible(name: str, videos: UInt8[Tensor, "b t h w 3"]) -> bool:
    return videos.shape[1] > 1 or name.split()[0] not in TEMPORAL_FACTS
