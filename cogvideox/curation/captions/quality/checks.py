"""Caption checks; each failure has a reason that is fed back to the model on retry.

Problems are stored in the column `caption.<stage>_problems`, one "kind: reason" per line, and counted per run. Checks
against measured facts are conservative because detectors are unreliable: a caption fails only if it contradicts a clear
measurement.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideox.config import check_minimum
from cogvideox.curation.captions.back_ends.prompts import looks_like_instruction
from cogvideox.curation.captions.facts import ClipFacts

KINDS = (
    "error",
    "empty",
    "cut_off",
    "looping",
    "opener",
    "not_a_caption",
    "language",
    "too_many_words",
    "too_many_tokens",
    "copies_text",
    "contradicts_text",
    "contradicts_counts",
    "contradicts_motion",
)
"""Kinds of problems."""

_OPENER = re.compile(
    r"^\W*(in |throughout |during )?(the|this|these|a) (short |given )?(video|clip|footage|frames?|images?|captions?|"
    r"picture|scene (shows|depicts|features|opens))s?\b|^\W*(here(’|'| i)s|sure\b|certainly\b|of course\b|summary\b|"
    r"description\b|caption\b|answer\b|the (provided|given)\b)",
    re.IGNORECASE,
)
_REMOVABLE = re.compile(
    r"^(in )?(the|this) (video|clip|footage|image|picture|frame)( clip)?,? "
    r"(shows|features|depicts|displays|captures|presents|begins with|starts with|opens with)( us)? (?=\S)",
    re.IGNORECASE,
)
_VIDEO = re.compile(
    r"\b(the|this|a) (video|clip|footage)\b|\bvideo (shows|begins|ends|features|depicts)", re.IGNORECASE
)
_META = re.compile(
    r"\bas an? (ai|language model|assistant)\b|\bi('m| am) (sorry|unable)\b|\bi (cannot|can't|can not)\b|</?data>|"
    r"\bmeasurements?, which may\b|\bthe user\b|\bthis answer\b|```|<\|",
    re.IGNORECASE,
)
_COMMON_WORDS = (
    "a an the of in on with and is are to at by from as it its their his her he she they while into over near behind "
    "through which that then there what has have not no"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_PEOPLE = re.compile(r"\b(two|three|four|five|six|seven|eight|nine|ten) (?:\w+ ){0,2}(people|persons|men|women)\b")
_NO_PEOPLE = re.compile(r"\b(no people|nobody|no one|no person|without (any )?people)\b", re.IGNORECASE)
_NO_TEXT = re.compile(r"\b(no|without( any)?) (visible )?(text|writing|letters|captions)\b", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“]([^\"“”]*)[\"”]")
_CAMERA = re.compile(
    r"\bcamera (?:\w+ ){0,2}?(?:pans?|panning|moves?|moving|tracks?|tilts?|tilting|glides?) (?:\w+ ){0,3}?"
    r"(left|right|up|down)(?:wards?)?\b",
    re.IGNORECASE,
)
_CAMERA_STILL = re.compile(r"\b(camera (is|stays|remains) (still|static|fixed)|(static|fixed) camera)\b", re.IGNORECASE)
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True)
class Problem:
    """A failed check of a caption.

    Attributes:
        kind: one of `KINDS`.
        reason: explanation for the model and the user.
    """

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclass(frozen=True)
class CheckConfig:
    """Limits of the checks.

    Attributes:
        max_words: maximum number of words of all captions except short ones, which have at most 40.
        max_tokens: sequence length of the text encoder, including the end token (226 in CogVideoX).
        tokenizer: folder of the text encoder's tokenizer; None estimates the number of tokens.
        english: whether captions in any language but English fail.
        facts: whether captions that contradict measured facts fail.
    """

    max_words: int = 100
    max_tokens: int = 226
    tokenizer: Path | None = None
    english: bool = True
    facts: bool = True

    def __post_init__(self) -> None:
        check_minimum(self, max_words=2, max_tokens=2)

    def counter(self) -> Callable[[str], int]:
        """Return the function that counts the tokens of a caption.

        Raises:
            UserError: the tokenizer cannot be read.
        """
        if self.tokenizer is None:
            return estimate_tokens
        from cogvideox.text.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_folder(self.tokenizer)
        return lambda text: len(tokenizer.token_ids(text)) + 1


def check_caption(
    text: str,
    facts: ClipFacts,
    config: CheckConfig,
    *,
    count_tokens: Callable[[str], int],
    max_words: int,
    finish_reason: str = "stop",
    error: str | None = None,
) -> list[Problem]:
    """Return all problems of a caption; empty if it is usable.

    Args:
        text: the caption.
        facts: measured facts of the clip or frame.
        config: limits of the checks.
        count_tokens: see `CheckConfig.counter`.
        max_words: maximum number of words.
        finish_reason, error: finish reason and error from the model's response.
    """
    if error is not None:
        return [Problem("error", error)]
    if not re.search(r"\w", text):
        return [Problem("empty", "it is empty")]
    problems = []
    words = text.split()
    if finish_reason == "length" or not re.search(r"[.!?\"”')]\W*$", text):
        problems.append(Problem("cut_off", "it does not end with a full sentence"))
    if repeated := repeated_phrase(words):
        problems.append(Problem("looping", f"it repeats {repeated!r}"))
    if match := _OPENER.search(text) or _VIDEO.search(text):
        problems.append(Problem("opener", f"it says {match[0].strip()!r} instead of describing directly"))
    if match := _META.search(text):
        problems.append(Problem("not_a_caption", f"it says {match[0].strip()!r}, which is not a description"))
    elif looks_like_instruction(text):
        problems.append(Problem("not_a_caption", "it repeats an instruction instead of describing"))
    if config.english and not is_english(text):
        problems.append(Problem("language", "it is not in English"))
    if len(words) > max_words:
        problems.append(Problem("too_many_words", f"it has {len(words)} words; the maximum is {max_words}"))
    if len(text) > 20 * config.max_tokens or (number := count_tokens(text)) > config.max_tokens:
        number = number if len(text) <= 20 * config.max_tokens else len(text) // 4
        reason = f"it has {number} tokens; the text encoder's limit is {config.max_tokens}"
        problems.append(Problem("too_many_tokens", reason))
    if config.facts:
        problems += contradictions(text, facts)
    return problems


def remove_opener(text: str) -> str:
    """Remove a leading "The video shows" or similar, the most common opener of language models."""
    match = _REMOVABLE.match(text)
    return text if match is None else text[match.end()].upper() + text[match.end() + 1 :]


def contradictions(text: str, facts: ClipFacts) -> list[Problem]:
    """Return contradictions between a caption and measured facts."""
    problems = []
    if facts.texts:
        read = " ".join(facts.texts).lower()
        plain = re.sub(r"[^\w ]", "", text.lower())
        if len(plain) >= 3 and plain in re.sub(r"[^\w ]", "", read):
            problems.append(Problem("copies_text", "it only repeats text that is visible in the picture"))
        if _NO_TEXT.search(text):
            problems.append(
                Problem("contradicts_text", f"it says that there is no text, but {facts.texts[0]!r} is visible")
            )
    if facts.texts is not None:
        for quoted in _QUOTED.findall(text):
            if len(quoted) >= 3 and not any(
                _similar(quoted.lower(), line.lower()) for line in (*facts.texts, " ".join(facts.texts))
            ):
                problems.append(Problem("contradicts_text", f"it quotes {quoted!r}, which is not in the picture"))
    if facts.counts is not None:
        number = facts.counts.get("person", 0.0)
        if _NO_PEOPLE.search(text) and number >= 0.9:
            problems.append(Problem("contradicts_counts", "it says that there are no people, but people are visible"))
        for match in _PEOPLE.finditer(text.lower()):
            stated = _NUMBERS[match[1]]
            if number >= 0.9 and abs(stated - number) >= max(2.0, 0.6 * number):
                reason = f"it says {match[0]!r}, but about {number:.0f} are detected"
                problems.append(Problem("contradicts_counts", reason))
    for match in _CAMERA.finditer(text):
        stated = match[1].lower()
        if facts.camera in (_OPPOSITE[stated], "still"):
            state = "is still" if facts.camera == "still" else f"moves {facts.camera}"
            problems.append(Problem("contradicts_motion", f"it says {match[0]!r}, but the camera {state}"))
    if (match := _CAMERA_STILL.search(text)) and facts.camera in _OPPOSITE:
        problems.append(Problem("contradicts_motion", f"it says {match[0]!r}, but the camera moves {facts.camera}"))
    if facts.motion in _OPPOSITE and facts.camera == "still":
        stated = set(re.findall(r"\b(?:to the|towards the|toward the|moves?|moving) (left|right)\b", text.lower()))
        if stated == {_OPPOSITE[facts.motion]}:
            reason = f"it says that something moves {stated.pop()}, but it moves {facts.motion}"
            problems.append(Problem("contradicts_motion", reason))
    return problems


def repeated_phrase(words: Sequence[str]) -> str:
    """Return a phrase that the text repeats in a loop; empty if there is none."""
    lower = [re.sub(r"\W", "", word.lower()) for word in words]
    for size, most in ((1, 5), (2, 4), (4, 3), (8, 2)):
        for start in range(len(lower) - size * most + 1):
            part = lower[start : start + size]
            if all(lower[start + k * size : start + (k + 1) * size] == part for k in range(1, most)):
                return " ".join(words[start : start + size])
    grams = [tuple(lower[i : i + 5]) for i in range(len(lower) - 4)]
    if len(grams) >= 10 and len(set(grams)) < 0.6 * len(grams):
        return " ".join(max(grams, key=grams.count))
    return ""


def is_english(text: str) -> bool:
    """Return whether a text without its quotations is plausibly English: Latin letters and, if long, common words."""
    plain = _QUOTED.sub(" ", text)
    letters = [char for char in plain if char.isalpha()]
    if letters and sum(char.isascii() for char in letters) < 0.9 * len(letters):
        return False
    words = re.findall(r"[a-z]+", plain.lower())
    return len(words) < 8 or sum(word in _COMMON for word in words) >= 0.08 * len(words)


def estimate_tokens(text: str) -> int:
    """Return a conservative estimate of the number of T5 tokens of an English text, including the end token."""
    return 1 + sum(max(1, -(-len(part) // 4)) for part in re.findall(r"\w+|[^\w\s]", text))


def _similar(quoted: str, line: str) -> bool:
    if quoted in line or line in quoted:
        return True
    return difflib.SequenceMatcher(None, quoted, line).ratio() >= 0.6
