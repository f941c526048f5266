"""Krippendorff's alpha equals hand calculations and the package `krippendorff`; Dawid-Skene finds bad raters."""

import math

import numpy as np
import pytest

from cogvideox.evaluation.human.agreement import dawid_skene, krippendorff_alpha


def test_alpha_equals_a_hand_calculation():
    """Two raters, four units (1 1, 0 0, 1 0, 1 1): Do = 1/4, De = 1 - (5*4 + 3*2) / (8*7) = 15/28."""
    answers = {"a": (1, 1), "b": (0, 0), "c": (1, 0), "d": (1, 1)}
    alpha = krippendorff_alpha({unit: dict(zip("xy", map(float, pair))) for unit, pair in answers.items()})
    assert alpha.value == pytest.approx(1 - (1 / 4) / (15 / 28))
    assert alpha.num_units == 4


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_equals_the_package_krippendorff(level):
    reference = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 50)
    matrix = np.where(rng.random((4, 50)) < 0.7, truth, rng.integers(0, 3, (4, 50))) / 2
    matrix[rng.random(matrix.shape) < 0.3] = np.nan
    answers = {
        str(unit): {str(rater): float(value) for rater, value in enumerate(column) if not math.isnan(value)}
        for unit, column in enumerate(matrix.T)
    }
    alpha = krippendorff_alpha(answers, level)
    assert alpha.value == pytest.approx(reference.alpha(matrix, level_of_measurement=level))
    assert alpha.interval is not None and alpha.interval[0] < alpha.value < alpha.interval[1]


def test_alpha_without_pairs_or_variation_has_no_value():
    assert math.isnan(krippendorff_alpha({"a": {"x": 1.0}}).value)
    assert math.isnan(krippendorff_alpha({"a": {"x": 1.0, "y": 1.0}, "b": {"x": 1.0, "y": 1.0}}).value)


def test_dawid_skene_beats_the_majority_and_finds_the_bad_raters():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    accuracy = [0.95, 0.92, 0.55, 0.55, 0.5]
    votes = np.array([np.where(rng.random(300) < correct, truth, ~truth) for correct in accuracy])
    answers = {
        str(unit): {f"r{rater}": bool(value) for rater, value in enumerate(votes[:, unit])} for unit in range(300)
    }
    model = dawid_skene(answers)
    inferred = np.array([model.probability[str(unit)] > 0.5 for unit in range(300)])
    majority = votes.mean(0) > 0.5
    assert (inferred == truth).mean() > 0.93 > (majority == truth).mean()
    assert min(model.sensitivity["r0"], model.specificity["r1"]) > 0.85 > 0.7 > model.sensitivity["r4"]
    assert model.prevalence == pytest.approx(truth.mean(), abs=0.06)
