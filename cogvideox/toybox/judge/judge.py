"""Marks videos against scenes or prompts, without any model: facts are read back from pixels and compared.

Scenes of the core grammar are read by `read_core`, which looks for one toy; those of the full grammar by `read_full`,
which counts toys and reads floor, light and camera as well. The facts of a mark have the names of `Scene.facts`. A fact
that cannot be read is wrong. Toys are read in no order: of all ways to pair those seen with those asked for, the one
with most facts right counts.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from cogvideox.records import Score
from cogvideox.toybox.captions.caption import parse
from cogvideox.toybox.judge.core import read_batch
from cogvideox.toybox.judge.full import Reading, read_full
from cogvideox.toybox.scenes.grammar import FACTS, TOY_FACTS, Scene, Seen, numbered

IN_TIME = ("motion", "camera")
"""Facts that a single frame does not show."""


@dataclass(frozen=True)
class Mark:
    """One fact of a prompt: what was asked for, and what is seen (None: nothing that can be told)."""

    wanted: str
    seen: str | None

    @property
    def right(self) -> bool:
        """Whether the fact holds."""
        return self.wanted == self.seen


def judge_batch(
    videos: UInt8[Tensor, "b t h w 3"], wanted: Sequence[Scene | Mapping[str, str]], grammar: str = "core"
) -> list[dict[str, bool]]:
    """Marks every clip against its scene, or against the facts that its prompt names (`caption.parse`).

    Returns, for each clip, whether each named fact holds. A single frame is not asked for motion and camera. A scene
    is read by its own grammar, facts of a prompt by `grammar`.
    """
    if len(videos) != len(wanted):
        raise ValueError(f"{len(videos)} videos cannot be marked against {len(wanted)} scenes")
    asked = [one.facts if isinstance(one, Scene) else one for one in wanted]
    full = [(one.grammar if isinstance(one, Scene) else grammar) == "full" for one in wanted]
    verdicts: list[dict[str, bool]] = [{} for _ in wanted]
    for by_full in (False, True):
        chosen = [i for i, one in enumerate(full) if one == by_full]
        if not chosen:
            continue
        readings = read_full(videos[chosen]) if by_full else read_batch(videos[chosen])
        for i, reading in zip(chosen, readings):
            seen = _paired(reading, asked[i]) if isinstance(reading, Reading) else reading
            verdicts[i] = {name: seen[name] == value for name, value in asked[i].items() if _shown(name, videos)}
    return verdicts


def judge(
    frames: UInt8[Tensor, "t h w 3"], wanted: Scene | Mapping[str, str], grammar: str = "core"
) -> dict[str, bool]:
    """Marks one clip: see `judge_batch`."""
    return judge_batch(frames[None], [wanted], grammar)[0]


def judge_prompt(frames: UInt8[Tensor, "t h w 3"], prompt: str) -> dict[str, Mark]:
    """Marks one clip against a prompt that a person typed, by the full grammar; the core is a part of it.

    Returns a mark for each fact that the prompt names; none where it names nothing of the toybox.
    """
    asked = parse(prompt, "full")
    seen = _paired(read_full(frames[None])[0], asked)
    return {name: Mark(value, seen[name]) for name, value in asked.items() if _shown(name, frames[None])}


def rates(verdicts: Sequence[Mapping[str, bool]]) -> dict[str, Score]:
    """The share of right answers per fact, and of clips with `all` facts right. A fact never asked for is left out.

    The facts of all toys of a scene count alike: `color` holds those of `color 2` too. A clip of which nothing was
    asked has nothing right either, and does not count.
    """
    marks: dict[str, list[bool]] = {name: [] for name in FACTS["full"]}
    for verdict in verdicts:
        for name, right in verdict.items():
            marks[name.split()[0]].append(right)
    marks["all"] = [all(verdict.values()) for verdict in verdicts if verdict]
    return {name: _rate(name, right) for name, right in marks.items() if right}


def _rate(name: str, right: Sequence[bool]) -> Score:
    """A share with its 95 % interval (Wilson 1927)."""
    z, total = 1.96, len(right)
    share = sum(right) / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Score(
        metric=f"toybox/{name}",
        value=share,
        interval=(max(0.0, middle - reach), min(1.0, middle + reach)),
        protocol={"judge": "cogvideox.toybox.judge", "num_clips": total, "interval": "Wilson, 95 %"},
    )


def _paired(reading: Reading, asked: Mapping[str, str]) -> Seen:
    """What is seen of each fact asked for, with toys seen and asked for paired in the best way."""
    number = 0
    while any(numbered(name, number + 1) in asked for name in TOY_FACTS):
        number += 1
    nothing: Seen = dict.fromkeys(TOY_FACTS)
    toys = [*reading.toys, *[nothing] * (number - len(reading.toys))]

    def right(order: Sequence[Seen]) -> int:
        return sum(
            asked.get(numbered(name, i), "") == toy[name] for i, toy in enumerate(order, start=1) for name in TOY_FACTS
        )

    best = max(itertools.permutations(toys, number), key=right)
    seen = {numbered(name, i): toy[name] for i, toy in enumerate(best, start=1) for name in TOY_FACTS}
    return seen | reading.facts


def _shown(name: str, videos: UInt8[Tensor, "b t h w 3"]) -> bool:
    return videos.shape[1] > 1 or name.split()[0] not in IN_TIME
