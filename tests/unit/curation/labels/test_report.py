"""Metrics against hand-computed values, and the report on label classifiers."""

import numpy as np
import pytest

from cogvideox.curation.labels import report_page
from cogvideox.curation.labels.definitions import LABELS, check_labels
from cogvideox.curation.labels.metrics import (
    average_precision,
    calibration_error,
    compute_metrics,
    slice_metrics,
    worst_errors,
)
from cogvideox.curation.labels.predictions import read_predictions, write_predictions
from cogvideox.curation.labels.report import Predictions, build_report, format_report, is_test_source
from cogvideox.errors import UserError
from tests.unit.curation.labels.examples import measured_clips


def test_metrics_match_hand_computed_values():
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0, np.nan, 1])
    probability = np.array([0.9, 0.8, 0.2, 0.1, 0.6, 0.1, 0.1, 0.1, 0.9, np.nan])
    metrics = compute_metrics(probability, truth, 0.5)
    assert (metrics.num_clips, metrics.num_positive) == (8, 3)
    assert metrics.true_positive == pytest.approx(2 / 8) and metrics.false_negative == pytest.approx(1 / 8)
    assert metrics.false_positive == pytest.approx(1 / 8) and metrics.true_negative == pytest.approx(4 / 8)
    assert metrics.accuracy == pytest.approx(6 / 8) and metrics.constant_accuracy == pytest.approx(5 / 8)
    assert metrics.recall == pytest.approx(2 / 3) and metrics.specificity == pytest.approx(4 / 5)
    assert metrics.balanced_accuracy == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics.mcc == pytest.approx((2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5))
    # Ranks of the positive clips: 1, 2 and 4.
    assert metrics.average_precision == pytest.approx((1 / 1 + 2 / 2 + 3 / 4) / 3)
    assert metrics.brier == pytest.approx(np.mean([0.01, 0.04, 0.64, 0.01, 0.36, 0.01, 0.01, 0.01]))


def test_metrics_agree_with_scikit_learn():
    from sklearn import metrics as reference

    rng = np.random.default_rng(0)
    truth = (rng.random(500) < 0.3).astype(np.float64)
    probability = np.clip(0.4 * truth + 0.6 * rng.random(500), 0, 1).round(2)  # with ties
    metrics = compute_metrics(probability, truth, 0.5)
    predicted = probability > 0.5
    assert metrics.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(truth, predicted))
    assert metrics.mcc == pytest.approx(reference.matthews_corrcoef(truth, predicted))
    assert metrics.average_precision == pytest.approx(reference.average_precision_score(truth, probability))
    assert metrics.brier == pytest.approx(reference.brier_score_loss(truth, probability))


def test_constant_prediction():
    truth = np.array([1.0] * 9 + [0.0])
    metrics = compute_metrics(np.full(10, 0.9), truth, 0.5)
    assert metrics.accuracy == metrics.constant_accuracy == pytest.approx(0.9)
    assert metrics.balanced_accuracy == 0.5 and metrics.mcc == 0.0
    assert metrics.average_precision == pytest.approx(0.9)
    assert metrics.calibration_error == pytest.approx(0.0)


def test_undefined_metrics_are_nan():
    assert compute_metrics(np.array([0.5]), np.array([np.nan]), 0.5) is None
    metrics = compute_metrics(np.array([0.2, 0.8]), np.zeros(2), 0.5)
    assert np.isnan(metrics.recall) and np.isnan(metrics.average_precision) and metrics.specificity == 0.5
    assert average_precision(np.array([0.1]), np.array([True])) == 1.0


def test_calibration_error_matches_hand_computed_value():
    probability = np.array([0.05, 0.05, 0.95, 0.95])
    positive = np.array([False, True, True, True])
    assert calibration_error(probability, positive) == pytest.approx(0.5 * abs(0.05 - 0.5) + 0.5 * abs(0.95 - 1.0))


def test_slices_and_errors_are_sorted():
    truth = np.array([1.0] * 20 + [0.0] * 20)
    probability = np.where(np.arange(40) < 30, 0.9, 0.1)
    probability[[3, 4]] = [0.3, 0.1]
    slices = slice_metrics(probability, truth, 0.5, ["a"] * 20 + ["b"] * 20 + [])
    assert list(slices) == ["b", "a"] and slices["a"].accuracy == pytest.approx(0.9)
    assert worst_errors(probability, truth, 0.5, 3) == [4, 20, 21]


def test_table_of_the_paper():
    """Balanced accuracies, computed from the rounded fractions of Table 14."""
    expected = {"editing": 0.86, "static": 0.92, "lecture": 0.99, "text": 0.95, "screenshot": 0.98, "low_quality": 0.86}
    assert {name: round(LABELS[name].paper.balanced_accuracy, 2) for name in expected} == pytest.approx(
        expected, abs=0.01
    )
    for name in ("editing", "low_quality"):
        assert LABELS[name].paper.constant_accuracy == pytest.approx(0.89)


def test_report_compares_classifiers(tmp_path):
    table, truth = measured_clips(100)
    good = Predictions("good", truth, dict.fromkeys(LABELS, 0.5))
    bad = {name: np.full(100, 0.3) for name in LABELS}
    bad["text"] = 1.0 - truth["text"]
    poor = Predictions("poor", bad, dict.fromkeys(LABELS, 0.5))
    reports = build_report([poor, good], truth, {"height": [str(height) for height in table["height"].to_pylist()]})
    by_name = {report.label: report for report in reports}
    assert by_name["text"].metrics["good"].balanced_accuracy == 1.0
    assert by_name["text"].metrics["poor"].balanced_accuracy == 0.0
    assert len(by_name["text"].errors) == 8 and set(by_name["text"].slices) == {"height"}
    text = format_report(reports)
    assert text.count("paper, its test set") == 6 and "poor" in text
    report_page.write_page(reports, table, None, tmp_path / "labels.html")
    page = (tmp_path / "labels.html").read_text()
    assert page.count("<h2>") == 6 and "probability 1.00, does not have the label" in page


def test_predictions_round_trip(tmp_path):
    probabilities = {"text": np.array([0.1, np.nan, 0.7])}
    write_predictions(["a", "b", "c"], probabilities, {"text": 0.4}, tmp_path / "p.parquet")
    loaded, thresholds = read_predictions(tmp_path / "p.parquet", ["c", "x", "a", "b"])
    np.testing.assert_array_equal(loaded["text"], [0.7, np.nan, 0.1, np.nan])
    assert thresholds == {"text": 0.4}
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a table of predicted labels"):
        read_predictions(tmp_path / "p.parquet", ["a"])


def test_test_sources_are_a_fixed_fraction():
    names = [f"video-{number}.mp4" for number in range(5000)]
    chosen = {name for name in names if is_test_source(name, 0.1)}
    assert 400 < len(chosen) < 600
    assert chosen < {name for name in names if is_test_source(name, 0.2)}
    assert not any(is_test_source(name, 0.0) for name in names)


def test_labels_are_checked():
    assert check_labels(["text", "editing", "text"]) == ("editing", "text")
    with pytest.raises(UserError, match="unknown label blurry; the labels are editing"):
        check_labels(["blurry"])
