"""Captions without a language model: one plain sentence from detectors, tags, recognized text, colors and motion.

The captions are limited by the detectors: object classes may be wrong or missing, and actions and relations are absent.
They let the summary stage run on real footage without a vision-language model.
"""

from collections.abc import Sequence
from typing import ClassVar

from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected
from cogvideox.curation.captions.facts import MOTION_SAMPLING, ClipFacts, Measurer, directions
from cogvideox.curation.captions.frame_times import frame_at
from cogvideox.curation.signals.base import Sampling

FRAME_SAMPLING = Sampling(fps=2.0, longest_side=640)
MIN_TAG = 0.3
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_IRREGULAR = {"person": "people", "bus": "buses", "couch": "couches", "bench": "benches", "knife": "knives"}
_IRREGULAR |= {"sheep": "sheep", "skis": "skis", "scissors": "scissors", "wine glass": "wine glasses"}


class TagsCaptioner:
    """Back-end that captions a clip in one sentence. See `base.Captioner`."""

    can_retry: ClassVar[bool] = False

    def __init__(self, measurer: Measurer, min_tag: float = MIN_TAG) -> None:
        self.measurer, self.min_tag = measurer, min_tag

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return self.measurer.samplings

    @property
    def identity(self) -> str:
        return f"tags 2, {self.min_tag:g}, {self.measurer.identity}"

    def caption(self, clip: CaptionInput, rejected: Sequence[Rejected] = ()) -> Draft:
        return Draft(describe_facts(clip.facts, self.min_tag))


class TagsFrameCaptioner:
    """Back-end that captions a frame in one sentence. See `base.FrameCaptioner`."""

    can_retry: ClassVar[bool] = False

    def __init__(self, measurer: Measurer, min_tag: float = MIN_TAG) -> None:
        self.measurer, self.min_tag = measurer, min_tag

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (FRAME_SAMPLING, MOTION_SAMPLING)

    @property
    def identity(self) -> str:
        return f"tags frames 2, {self.min_tag:g}, {self.measurer.identity}"

    def caption(self, clip: CaptionInput, time: float, rejected: Sequence[Rejected] = ()) -> Draft:
        sampled = clip.frames[FRAME_SAMPLING]
        moving = directions(clip.frames[MOTION_SAMPLING], time, time + 1.0)
        facts = self.measurer.frame(sampled.frames[frame_at(sampled, time)], moving)
        return Draft(describe_facts(facts, self.min_tag))


def describe_facts(facts: ClipFacts, min_tag: float = MIN_TAG) -> str:
    """Describe the facts in one sentence."""
    subjects = count_phrases(facts)
    parts = [_join(subjects)] if subjects else []
    tags = [name for name, value in facts.tags.items() if value >= min_tag]
    known = " ".join(subjects)
    tags = [tag for tag in tags if tag not in known]
    if tags:
        parts.append(f"{'what looks like ' if not parts else 'something like '}{_article(tags[0])}")
    if not parts:
        parts.append("a view")
    sentence = ", ".join(parts)
    if facts.colors:
        sentence += f", mostly {_join(facts.colors)}"
    if facts.texts:
        sentence += f", with text that reads {_join([f'{chr(34)}{text}{chr(34)}' for text in facts.texts[:3]])}"
    if facts.motion not in (None, "still"):
        sentence += f", something moves {_toward(facts.motion)}"
    if facts.camera == "still":
        sentence += ", the camera is still"
    elif facts.camera is not None:
        sentence += f", the camera moves {_toward(facts.camera)}"
    return sentence[0].upper() + sentence[1:] + "."


def count_phrases(facts: ClipFacts) -> list[str]:
    """Return phrases such as "two people", for object classes with a mean count that rounds to 1 or more; at most 4."""
    phrases = []
    counts = dict(facts.counts or {})
    if facts.faces is not None and round(facts.faces) > round(counts.get("person", 0.0)):
        counts["person"] = facts.faces
    for kind, count in counts.items():
        number = round(count)
        if number == 1:
            phrases.append(_article(kind))
        elif number > 1:
            phrases.append(f"{_WORDS[number] if number < len(_WORDS) else 'many'} {_plural(kind)}")
    if facts.faces is not None and facts.faces >= 0.5:
        phrases = [phrase.replace("a person", "a person whose face is seen") for phrase in phrases]
    return phrases[:4]


def _toward(direction: str) -> str:
    return f"to the {direction}" if direction in ("left", "right") else direction


def _article(noun: str) -> str:
    if noun.endswith("s") and not noun.endswith(("ss", "us")):  # a plural: skis, scissors
        return noun
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _plural(noun: str) -> str:
    return _IRREGULAR.get(noun, noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s"))


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
