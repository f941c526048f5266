"""Metrics of binary classifiers: the columns of the paper's Table 14, and those that do not depend on frequencies.

Plain accuracy says little where nearly all clips have a label: for Editing and Low quality, a constant answer is right
in 0.89 of the paper's test set, as often as its classifiers. So the constant answer is reported beside every accuracy.

Axes: `n` clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Metrics:
    """Metrics of one label over the clips whose truth and probability are known.

    Attributes:
        num_clips: these clips; `num_positive` of them have the label.
        true_positive, false_positive, true_negative, false_negative: fractions of the clips, as in Table 14.
        accuracy, recall, specificity: as in Table 14.
        balanced_accuracy: mean of recall and specificity; 0.5 for any constant answer.
        constant_accuracy: accuracy of the better constant answer.
        average_precision: area under the precision-recall curve, as average precision; a constant has the frequency of
            the label.
        mcc: Matthews correlation coefficient, -1 to 1; 0 for a constant answer.
        calibration_error: expected calibration error over 10 bins of equal width.
        brier: mean squared error of the probabilities.
    """

    num_clips: int
    num_positive: int
    true_positive: float
    false_positive: float
    true_negative: float
    false_negative: float
    accuracy: float
    recall: float
    specificity: float
    balanced_accuracy: float
    constant_accuracy: float
    average_precision: float
    mcc: float
    calibration_error: float
    brier: float


def compute_metrics(
    probabilities: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"], threshold: float
) -> Metrics | None:
    """Return the metrics of a label; None if no clip has both a truth and a probability.

    Metrics that are not defined, such as the recall without positive clips, are NaN.

    Args:
        truth: 1, 0, or NaN where it is not known.
        threshold: probability above which the label is given.
    """
    known = np.isfinite(truth) & np.isfinite(probabilities)
    if not known.any():
        return None
    probability, positive = probabilities[known], truth[known] > 0.5
    given = probability > threshold
    tp, fp = np.mean(given & positive), np.mean(given & ~positive)
    tn, fn = np.mean(~given & ~positive), np.mean(~given & positive)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, specificity = tp / np.float64(tp + fn), tn / np.float64(tn + fp)
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        mcc = (tp * tn - fp * fn) / np.sqrt(product) if product > 0 else 0.0
    return Metrics(
        num_clips=len(positive),
        num_positive=int(positive.sum()),
        true_positive=float(tp),
        false_positive=float(fp),
        true_negative=float(tn),
        false_negative=float(fn),
        accuracy=float(tp + tn),
        recall=float(recall),
        specificity=float(specificity),
        balanced_accuracy=float((recall + specificity) / 2),
        constant_accuracy=float(max(positive.mean(), 1 - positive.mean())),
        average_precision=average_precision(probability, positive),
        mcc=float(mcc),
        calibration_error=calibration_error(probability, positive),
        brier=float(np.mean((probability - positive) ** 2)),
    )


def average_precision(probability: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the mean over the positive clips of the precision at their probability; NaN without positive clips."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-probability, kind="stable")
    ranked, sorted_probability = positive[order], probability[order]
    # Clips of equal probability are taken together: the precision is that after the last of them.
    last = np.append(np.flatnonzero(np.diff(sorted_probability)), len(ranked) - 1)
    hits = np.cumsum(ranked)[last]
    precision = hits / (last + 1)
    return float(np.sum(precision * np.diff(hits, prepend=0)) / positive.sum())


def calibration_error(probability: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the mean difference of the mean probability and the frequency of the label in each bin, by its clips."""
    bins = np.minimum((probability * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    error = 0.0
    for number in np.unique(bins):
        inside = bins == number
        error += inside.mean() * abs(probability[inside].mean() - positive[inside].mean())
    return float(error)


def slice_metrics(
    probabilities: Float64[np.ndarray, " n"],
    truth: Float64[np.ndarray, " n"],
    threshold: float,
    names: Sequence[str],
    min_clips: int = 10,
) -> Mapping[str, Metrics]:
    """Return the metrics of each slice with at least `min_clips` clips, worst first.

    Args:
        names: slice of each clip, such as its source.
    """
    array = np.array(names)
    found = {}
    for name in dict.fromkeys(names):
        metrics = compute_metrics(probabilities[array == name], truth[array == name], threshold)
        if metrics is not None and metrics.num_clips >= min_clips:
            found[name] = metrics
    return dict(sorted(found.items(), key=lambda item: item[1].accuracy))


def worst_errors(
    probabilities: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"], threshold: float, number: int
) -> list[int]:
    """Return the rows of the wrong answers, those with the largest error first."""
    known = np.isfinite(truth) & np.isfinite(probabilities)
    wrong = known & ((probabilities > threshold) != (truth > 0.5))
    rows = np.flatnonzero(wrong)
    return rows[np.argsort(-np.abs(probabilities[rows] - truth[rows]), kind="stable")][:number].tolist()
