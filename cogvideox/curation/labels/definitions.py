"""Definitions of the six negative labels (paper, Section 3.4), and the paper's results (Table 14).

A clip may have several labels. A clip without a label is suitable for training.
"""

from collections.abc import Collection
from dataclasses import dataclass

from cogvideox.errors import UserError

DEFINITIONS_VERSION = 1
"""Version of the definitions below. Annotations record it, because their meaning depends on the definitions."""

PREFIX = "labels."
"""Prefix of the manifest columns with the probabilities of the labels."""


@dataclass(frozen=True)
class PaperResult:
    """A row of Table 14: the confusion matrix of a classifier, as fractions of the test set of 2,000 clips."""

    true_positive: float
    false_positive: float
    true_negative: float
    false_negative: float

    @property
    def balanced_accuracy(self) -> float:
        """Mean of recall and specificity, computed from the rounded fractions."""
        recall = self.true_positive / (self.true_positive + self.false_negative)
        return (recall + self.true_negative / (self.true_negative + self.false_positive)) / 2

    @property
    def accuracy(self) -> float:
        """Fraction of the test set that is classified correctly."""
        return self.true_positive + self.true_negative

    @property
    def constant_accuracy(self) -> float:
        """Accuracy of a classifier that always predicts the majority class."""
        positive = self.true_positive + self.false_negative
        return max(positive, 1.0 - positive)


@dataclass(frozen=True)
class Label:
    """A negative label.

    Attributes:
        name: short name, used in columns and files; the name of Table 14 in lower case.
        title: human-readable name.
        definition: definition for annotators.
        question: yes/no question for a video-language model.
        paper: the paper's result for this label.
        signals: columns, or prefixes of columns, that its classifier reads; empty for all. Other columns would only
            identify the footage of the training clips.
    """

    name: str
    title: str
    definition: str
    question: str
    paper: PaperResult
    signals: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """Column of the manifest with the probability of this label."""
        return PREFIX + self.name

    def reads(self, column: str) -> bool:
        """Whether the classifier of this label reads a signal column."""
        return column.startswith(self.signals or "")


LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label(
            "editing",
            "Editing",
            "The clip was visibly edited: cuts, dissolves or fades inside it, titles, logos or watermarks, several "
            "pictures in one frame, borders with decoration, or special effects over the footage.",
            "Was this video visibly edited, for example by cuts or dissolves between shots, titles, logos, "
            "watermarks, picture-in-picture or special effects?",
            PaperResult(0.81, 0.02, 0.09, 0.08),
        ),
        Label(
            "static",
            "Lack of motion connectivity",
            "The frames do not show continuous motion: stills shown in turn, a still with a slow zoom, frozen frames, "
            "frames that jump, or a picture in which nothing moves.",
            "Does this video lack continuous motion, for example because it is a still, a slide show of stills, "
            "frozen, or jumps between unconnected pictures?",
            PaperResult(0.48, 0.04, 0.44, 0.04),
            ("edits.", "faces.", "motion.", "screen.", "stillness.", "text."),
        ),
        Label(
            "low_quality",
            "Low quality",
            "The footage is poor: blurred, noisy, blocky, enlarged from a low resolution, badly exposed, or shaken "
            "so strongly that it is unpleasant to watch.",
            "Is the technical quality of this video poor, for example blurred, noisy, full of compression "
            "artifacts, badly exposed, or very shaky?",
            PaperResult(0.80, 0.02, 0.09, 0.09),
            ("brisque.", "defects.", "motion.", "picture.", "technical."),
        ),
        Label(
            "lecture",
            "Lecture",
            "A person talks for most of the clip, with little other motion: a lecture, interview, news or video call.",
            "Does this video mainly show a person who talks to the camera or to an audience, with little other motion?",
            PaperResult(0.52, 0.00, 0.47, 0.01),
        ),
        Label(
            "text",
            "Text-dominated",
            "Text covers much of the picture or is what the clip is about: slides, title cards, credits, documents.",
            "Is this video dominated by text, for example slides, title cards, credits or documents?",
            PaperResult(0.60, 0.03, 0.36, 0.02),
        ),
        Label(
            "screenshot",
            "Noisy screenshot",
            "A recording of a screen: a desktop, a program, a terminal, a game's menus, or a screen that was filmed.",
            "Is this video a recording of a computer or phone screen, or footage of a screen filmed by a camera?",
            PaperResult(0.61, 0.01, 0.37, 0.01),
        ),
    )
}
"""The labels by name, in the order of the keys 1 to 6 of annotation pages."""


def check_labels(names: Collection[str]) -> tuple[str, ...]:
    """Return the names in the order of `LABELS`, each once.

    Raises:
        UserError: a label is unknown.
    """
    if unknown := sorted(set(names) - set(LABELS)):
        raise UserError(f"unknown label {', '.join(unknown)}; the labels are {', '.join(LABELS)}")
    return tuple(name for name in LABELS if name in names)
