"""Criteria of the paper's human evaluation (Appendix J), and its results (Table 4).

Raters score four criteria with 0, 0.5 or 1 and give a total from 0 to 5. The total is a separate score, not the sum of
the criteria, and at most 2 if the video does not follow the instruction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cogvideox.errors import UserError

LEVELS = (0.0, 0.5, 1.0)
TOTAL = "total"
TOTALS = (0, 1, 2, 3, 4, 5)
MAX_TOTAL_AGAINST_INSTRUCTION = 2
"""Highest total of a video whose score of `instruction` is 0."""

OVERALL = "overall"
CHOICES = ("left", "right", "same", "both_bad")
"""Answers to a question about a pair of videos, in the order of the keys 1 to 4."""


@dataclass(frozen=True)
class Criterion:
    """A criterion, with a text for each of the `LEVELS`, and a question for pairs of videos."""

    name: str
    title: str
    question: str
    levels: tuple[str, str, str]


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion(
            "sensory",
            "Sensory quality",
            "Which video looks better: consistent, sharp, well composed?",
            (
                "Large inconsistencies: objects change or vanish, or most frames are blurred or distorted.",
                "At least 80 % consistent, about half of the frames sharp, at least 70 % plausible composition.",
                "Appearance fully consistent, stable high resolution, plausible composition, appealing.",
            ),
        ),
        Criterion(
            "instruction",
            "Instruction following",
            "Which video follows the prompt better?",
            (
                "An element, count or feature of the prompt is missing or wrong.",
                "Everything in the prompt is there, with small flaws.",
                "Everything in the prompt is there and right.",
            ),
        ),
        Criterion(
            "physics",
            "Physics simulation",
            "In which video are motion, light and contact more realistic?",
            (
                "Obviously fake: motion, light or contact cannot be real.",
                "Degraded, but believable for the most part.",
                "Motion, light and shadow, contact and fluids are right throughout.",
            ),
        ),
        Criterion(
            "cover",
            "Cover quality",
            "Which video has the better single frames?",
            (
                "A single frame is blurred or of low resolution.",
                "A single frame is of average quality.",
                "A single frame is clear: the subject is obvious and complete, the colors are normal.",
            ),
        ),
    )
}

OVERALL_QUESTION = "Which video is better overall?"

PAPER_TABLE: dict[str, dict[str, float]] = {
    "Kling": {"sensory": 0.638, "instruction": 0.367, "physics": 0.561, "cover": 0.668, TOTAL: 2.17},
    "CogVideoX-5B": {"sensory": 0.722, "instruction": 0.495, "physics": 0.667, "cover": 0.712, TOTAL: 2.74},
}
"""Table 4: mean scores over 100 prompts."""


def check_scores(scores: Mapping[str, object]) -> dict[str, float]:
    """Return the validated scores of a video: the four criteria and the total.

    Raises:
        UserError: a score is missing, unknown or not a level, or the total is above 2 against the instruction.
    """
    if set(scores) != {*CRITERIA, TOTAL}:
        raise UserError(f"a rating has the scores {', '.join(CRITERIA)} and {TOTAL}")
    for name in CRITERIA:
        if isinstance(scores[name], bool) or scores[name] not in LEVELS:
            raise UserError(f"{name} must be 0, 0.5 or 1")
    if isinstance(scores[TOTAL], bool) or scores[TOTAL] not in TOTALS:
        raise UserError(f"{TOTAL} must be 0, 1, 2, 3, 4 or 5")
    checked = {name: float(str(scores[name])) for name in (*CRITERIA, TOTAL)}
    if checked["instruction"] == 0 and checked[TOTAL] > MAX_TOTAL_AGAINST_INSTRUCTION:
        raise UserError(f"{TOTAL} must be at most {MAX_TOTAL_AGAINST_INSTRUCTION}, because instruction is 0")
    return checked


def check_choices(choices: Mapping[str, object], questions: tuple[str, ...]) -> dict[str, str]:
    """Return the validated answers to the questions about a pair of videos.

    Raises:
        UserError: an answer is missing, unknown or not a choice.
    """
    if set(choices) != set(questions):
        raise UserError(f"an answer is needed to each of: {', '.join(questions)}")
    for name in questions:
        if choices[name] not in CHOICES:
            raise UserError(f"{name} must be left, right, same or both_bad")
    return {name: str(choices[name]) for name in questions}
