"""Metrics of binary classifiers: the columns of the paper's Table 14, and metrics insensitive to class imbalance.

Accuracy is not informative if nearly all clips have a label: for Editing and Low quality, a constant (majority-class)
prediction is 89% accurate on the paper's test set, like the paper's classifiers. The accuracy of the constant
prediction is therefore reported next to every accuracy.

Axes: `n` clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Metrics:
    """Metrics of one label over the clips with a known label and a prediction.

    Attributes:
        num_clips: number of clips with a known label and a prediction.
        num_positive: number of these clips that have the label.
        true_positive, false_positive, true_negative, false_negative: fractions of the clips, as in Table 14.
        accuracy, recall, specificity: as in Table 14.
        balanced_accuracy: mean of recall and specificity; 0.5 for any constant prediction.
        constant_accuracy: accuracy of a constant prediction of the majority class.
        average_precision: area under the precision-recall curve; a constant prediction scores the label's prevalence.
        mcc: Matthews correlation coefficient, -1 to 1; 0 for a constant prediction.
        calibration_error: expected calibration error over 10 equal-width bins.
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
    """Return the metrics of a label; None if no clip has both a ground-truth label and a prediction.

    Metrics that are not defined, such as recall without positive clips, are NaN.

    Args:
        truth: ground-truth label of each clip: 1, 0, or NaN if it is not known.
        threshold: probability above which the label is predicted.
    """
    known = np.isfinite(truth) & np.isfinite(probabilities)
    if not known.any():
        return None
    probability, positive = probabilities[known], truth[known] > 0.5
    predicted = probability > threshold
    tp, fp = np.mean(predicted & positive), np.mean(predicted & ~positive)
    tn, fn = np.mean(~predicted & ~positive), np.mean(~predicted & positive)
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
    """Return the mean of the precision at each positive clip's score; NaN without positive clips."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-probability, kind="stable")
    ranked, sorted_probability = positive[order], probability[order]
    # Clips with equal probabilities form one group, whose precision is measured after its last clip.
    last = np.append(np.flatnonzero(np.diff(sorted_probability)), len(ranked) - 1)
    hits = np.cumsum(ranked)[last]
    precision = hits / (last + 1)
    return float(np.sum(precision * np.diff(hits, prepend=0)) / positive.sum())


def calibration_error(probability: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the bin-size-weighted mean absolute difference between mean probability and positive rate."""
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
    by_slice: dict[str, Metrics] = {}
    for name in dict.fromkeys(names):
        metrics = compute_metrics(probabilities[array == name], truth[array == name], threshold)
        if metrics is not None and metrics.num_clips >= min_clips:
            by_slice[name] = metrics
    return dict(sorted(by_slice.items(), key=lambda item: item[1].accuracy))


def worst_errors(
    probabilities: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"], threshold: float, number: int
) -> list[int]:
    """Return the indices of misclassified clips, largest error first."""
    known = np.isfinite(truth) & np.isfinite(probabilities)
    wrong = known & ((probabilities > threshold) != (truth > 0.5))
    rows = np.flatnonzero(wrong)
    return rows[np.argsort(-np.abs(probabilities[rows] - truth[rows]), kind="stable")][:number].tolist()
