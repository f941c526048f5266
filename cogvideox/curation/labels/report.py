"""Report on label classifiers: the columns of the paper's Table 14, and metrics insensitive to class imbalance."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.metrics import Metrics, compute_metrics, slice_metrics, worst_errors

NUM_ERRORS = 8
TEST_FRACTION = 0.1
"""Fraction of the sources whose clips are held out, in the test split, as in the paper."""

Probabilities = Mapping[str, Float64[np.ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """A classifier's predictions for the rows of a manifest.

    Attributes:
        name: name of the classifier in the report.
        probabilities: probability per label and row; NaN where there is no prediction.
        thresholds: decision threshold per label.
    """

    name: str
    probabilities: Probabilities
    thresholds: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class LabelReport:
    """Results of one label.

    Attributes:
        metrics: metrics per classifier.
        slices: metrics of the first classifier per kind of slice and per slice, worst slice first.
        errors: the first classifier's largest errors, as (row, probability, ground-truth label).
    """

    label: str
    metrics: dict[str, Metrics]
    slices: dict[str, Mapping[str, Metrics]]
    errors: list[tuple[int, float, bool]]


def build_report(
    predictions: Sequence[Predictions], truth: Probabilities, slices: Mapping[str, Sequence[str]] | None = None
) -> list[LabelReport]:
    """Evaluate classifiers against ground truth.

    Args:
        truth: ground truth of each label per row: 1, 0, or NaN (not known, or not in the test split).
        slices: name of each row's slice, per kind of slice.
    """
    reports = []
    for name in LABELS:
        available = [classifier for classifier in predictions if name in classifier.probabilities]
        metrics = {
            classifier.name: values
            for classifier in available
            if (values := compute_metrics(classifier.probabilities[name], truth[name], classifier.thresholds[name]))
            is not None
        }
        if not metrics:
            continue
        first = next(classifier for classifier in available if classifier.name in metrics)
        arguments = (first.probabilities[name], truth[name], first.thresholds[name])
        parts = {kind: slice_metrics(*arguments, names) for kind, names in (slices or {}).items()}
        rows = worst_errors(*arguments, NUM_ERRORS)
        errors = [(row, float(first.probabilities[name][row]), bool(truth[name][row] > 0.5)) for row in rows]
        reports.append(
            LabelReport(name, metrics, {kind: part for kind, part in parts.items() if len(part) > 1}, errors)
        )
    return reports


def is_test_source(source: str, fraction: float) -> bool:
    """Return whether a source is held out, in the test split: a fixed pseudo-random choice by its name."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:4], "big") < fraction * 2**32


HEADER = (
    *("label", "classifier", "TP", "FP", "TN", "FN", "acc", "const", "recall", "spec", "bal acc"),
    *("AP", "MCC", "ECE", "clips", "with"),
)
"""Columns of the table. `const` is the accuracy of the majority-class baseline; `with` is the number of positives."""


def table_rows(reports: Sequence[LabelReport]) -> list[list[str]]:
    """Return the table as text cells: for each label, a row per classifier and a row of the paper's results."""
    rows = []
    for report in reports:
        for classifier, m in report.metrics.items():
            fractions = (m.true_positive, m.false_positive, m.true_negative, m.false_negative)
            rates = (m.accuracy, m.constant_accuracy, m.recall, m.specificity, m.balanced_accuracy)
            others = (m.average_precision, m.mcc, m.calibration_error)
            numbers = [_number(value) for value in (*fractions, *rates, *others)]
            rows.append([report.label, classifier, *numbers, str(m.num_clips), str(m.num_positive)])
        paper = LABELS[report.label].paper
        fractions = (paper.true_positive, paper.false_positive, paper.true_negative, paper.false_negative)
        recall = paper.true_positive / (paper.true_positive + paper.false_negative)
        specificity = paper.true_negative / (paper.true_negative + paper.false_positive)
        rates = (paper.accuracy, paper.constant_accuracy, recall, specificity, paper.balanced_accuracy)
        numbers = [_number(value) for value in (*fractions, *rates)]
        rows.append([report.label, "paper, its test set", *numbers, "", "", "", "2000", ""])
    return rows


def format_report(reports: Sequence[LabelReport]) -> str:
    """Format the table as text, followed by the slices with the lowest accuracy."""
    rows = [list(HEADER), *table_rows(reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for number, row in enumerate(rows):
        if number and row[0] != rows[number - 1][0]:
            lines.append("")
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    for report in reports:
        for kind, slices in report.slices.items():
            worst = ", ".join(
                f"{name} {metrics.accuracy:.2f} of {metrics.num_clips}" for name, metrics in list(slices.items())[:3]
            )
            lines.append(f"{report.label}: lowest accuracy by {kind}: {worst}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
