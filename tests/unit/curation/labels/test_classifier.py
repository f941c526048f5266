"""Label classifiers: accuracy, calibration, and identical predictions after saving and loading."""

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("sklearn")

from sklearn.ensemble import ExtraTreesClassifier

from cogvideox.curation.labels.classifier import TrainSettings, choose_threshold, fit_calibration, sigmoid, train
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.features import signal_columns, truth_columns
from cogvideox.curation.labels.metrics import compute_metrics
from cogvideox.curation.labels.model_file import load_model, save_model
from cogvideox.curation.labels.trees import from_sklearn
from cogvideox.errors import UserError
from tests.unit.curation.labels.examples import measured_clips

FAST = {"num_trees": 25}


def test_trees_equal_scikit_learn():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(300, 5))
    forest = ExtraTreesClassifier(20, random_state=0).fit(matrix, matrix[:, 0] + rng.normal(size=300) > 0)
    probe = rng.normal(size=(200, 5))
    np.testing.assert_allclose(from_sklearn(forest).predict(probe), forest.predict_proba(probe)[:, 1], atol=1e-6)


def test_signal_columns_are_numeric():
    table, _ = measured_clips(10)
    table = table.append_column("labels.text", pa.array([0.5] * 10))
    assert signal_columns(table) == tuple(f"signal.{name}" for name in (*LABELS, "sometimes"))


@pytest.mark.parametrize("kind", ["signals", "embedding"])
def test_held_out_labels_are_predicted_and_calibrated(kind):
    table, truth = measured_clips(300, noise=0.3)
    model = train(table, truth, TrainSettings(kind=kind, **FAST))
    held_out, labels = measured_clips(300, seed=1, noise=0.3)
    probabilities = model.predict(held_out)
    for name in LABELS:
        metrics = compute_metrics(probabilities[name], labels[name], model.thresholds[name])
        if kind == "signals" and name == "text":  # only the embedding depends on this label
            assert abs(metrics.balanced_accuracy - 0.5) < 0.1
        else:
            assert metrics.balanced_accuracy > 0.85, name
        assert metrics.calibration_error < 0.12, name
        assert 0.0 < model.thresholds[name] < 1.0


def test_training_is_repeatable_and_stored_exactly(tmp_path):
    table, truth = measured_clips(120)
    for kind in ("signals", "embedding"):
        model = train(table, truth, TrainSettings(kind=kind, **FAST))
        again = train(table, truth, TrainSettings(kind=kind, **FAST))
        save_model(model, tmp_path / "labels.safetensors")
        loaded = load_model(tmp_path / "labels.safetensors")
        assert (loaded.kind, loaded.columns, loaded.embedding) == (model.kind, model.columns, model.embedding)
        assert loaded.thresholds == model.thresholds
        for name, values in model.predict(table).items():
            np.testing.assert_array_equal(values, again.predict(table)[name])
            np.testing.assert_array_equal(values, loaded.predict(table)[name])


@pytest.mark.parametrize("kind", ["signals", "embedding"])
@pytest.mark.parametrize(
    ("label", "read", "unread"),
    [("low_quality", "defects.darkest", "edits.cuts"), ("static", "stillness.frozen", "defects.darkest")],
)
def test_a_classifier_reads_only_the_columns_of_its_label(label, read, unread, kind):
    """A column that a label does not read changes nothing, although it separates the training clips."""
    table, truth = measured_clips(120)
    weak = truth[label] + np.random.default_rng(0).normal(size=120)
    table = table.append_column(read, pa.array(weak)).append_column(unread, pa.array(truth[label]))
    model = train(table, truth, TrainSettings(kind=kind, **FAST))
    head, index = model.heads[label], model.columns.index(read)
    assert set(head.trees.feature) == {-1, index}
    assert {model.columns.index("signal.editing"), model.columns.index(unread)} <= set(
        model.heads["editing"].trees.feature
    )
    if head.weights is not None:
        others = np.delete(head.weights[1 : 1 + len(model.columns)], index)
        assert head.weights[1 + index] > 0.0 and np.abs(others).max() < 1e-6


@pytest.mark.parametrize("kind", ["signals", "embedding"])
def test_rows_without_a_known_label_do_not_change_the_model(kind):
    table, truth = measured_clips(80)
    table = table.append_column("signal.unlabeled", pa.nulls(80, pa.float64()))
    other, _ = measured_clips(40, seed=1)
    other = other.append_column("signal.unlabeled", pa.array(np.arange(40.0)))
    position = other.column_names.index("signal.sometimes")
    other = other.set_column(position, "signal.sometimes", pa.array([1000.0] * 40))
    both = {name: np.concatenate([values, np.full(40, np.nan)]) for name, values in truth.items()}
    model = train(table, truth, TrainSettings(kind=kind, **FAST))
    more = train(pa.concat_tables([table, other]), both, TrainSettings(kind=kind, **FAST))
    assert more.columns == model.columns and "signal.unlabeled" not in model.columns
    np.testing.assert_array_equal(more.medians, model.medians)
    np.testing.assert_array_equal(more.scales, model.scales)
    assert more.thresholds == model.thresholds
    for name, values in model.predict(table).items():
        np.testing.assert_array_equal(more.predict(table)[name], values)


def test_unknown_labels_and_unmeasured_rows_are_left_out():
    table, truth = measured_clips(200)
    truth["lecture"][:] = np.nan
    truth["editing"][4:] = np.nan
    truth["static"][::2] = np.nan
    signals = [name for name in table.column_names if name.startswith("signal.") and name != "signal.words"]
    for name in signals:  # the last row was not measured
        values = [*table[name].to_pylist()[:-1], None]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    model = train(table, truth, TrainSettings(**FAST))
    assert set(model.heads) == set(LABELS) - {"lecture", "editing"}
    assert model.heads["static"].num_positive + model.heads["static"].num_negative == 99
    probabilities = model.predict(table)
    assert all(np.isnan(values[-1]) and np.isfinite(values[:-1]).all() for values in probabilities.values())


def test_clips_of_a_group_stay_together():
    """Copies of a clip must not make the classifier look better calibrated than it is."""
    table, _ = measured_clips(60, noise=1.0)
    rng = np.random.default_rng(2)
    noise = {name: (rng.random(60) < 0.5).astype(np.float64) for name in LABELS}
    copies = pa.concat_tables([table] * 4)
    truth = {name: np.tile(values, 4) for name, values in noise.items()}
    apart = train(copies, truth, TrainSettings(**FAST), groups=[str(row) for row in range(240)])
    together = train(copies, truth, TrainSettings(**FAST), groups=[str(row % 60) for row in range(240)])
    slopes = [np.mean([head.slope for head in model.heads.values()]) for model in (apart, together)]
    assert slopes[0] > 3 * slopes[1]


def test_the_threshold_has_the_highest_balanced_accuracy():
    rng = np.random.default_rng(4)
    truth = (rng.random(300) < 0.2).astype(np.float64)
    probabilities = rng.beta(1 + 2 * truth, 3)

    def accuracy(threshold: float) -> float:
        predicted = probabilities > threshold
        return (predicted[truth > 0.5].mean() + (~predicted[truth < 0.5]).mean()) / 2

    best = max(accuracy(value) for value in np.linspace(0, 1, 2001))
    assert best - 0.0051 <= accuracy(choose_threshold(probabilities, truth)) <= best + 1e-9


def test_the_threshold_of_separated_classes_is_between_them():
    truth = np.array([0.0, 0, 0, 1, 1])
    assert choose_threshold(np.array([0.1, 0.2, 0.3, 0.7, 0.9]), truth) == pytest.approx(0.5)


def test_calibration_recovers_a_known_sigmoid():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000) * 2
    truth = (rng.random(20_000) < sigmoid(0.5 * logits - 1.0)).astype(np.float64)
    slope, intercept = fit_calibration(logits, truth)
    assert slope == pytest.approx(0.5, abs=0.03) and intercept == pytest.approx(-1.0, abs=0.05)


def test_ground_truth_columns():
    truth = truth_columns(["a", "b", "c"], {"a": {"text": True, "static": False}, "b": {"text": None}})
    np.testing.assert_array_equal(truth["text"], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(truth["static"], [0.0, np.nan, np.nan])


def test_errors_say_what_to_do(tmp_path):
    table, truth = measured_clips(30)
    few = {name: np.where(np.arange(30) < 4, values, np.nan) for name, values in truth.items()}
    with pytest.raises(UserError, match="annotate more clips"):
        train(table, few)
    with pytest.raises(UserError, match="signals tags"):
        train(table.drop(["tags.embedding"]), truth, TrainSettings(kind="embedding"))
    with pytest.raises(UserError, match="with signals"):
        train(table.select(["id", "source"]), truth)
    model = train(table, truth, TrainSettings(**FAST))
    with pytest.raises(UserError, match="signals signal"):
        model.predict(table.drop(["signal.text"]))


def test_damaged_models_are_rejected(tmp_path):
    from safetensors.numpy import load_file, save_file

    table, truth = measured_clips(60)
    path = tmp_path / "labels.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_model(path)
    save_model(train(table, truth, TrainSettings(**FAST)), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a label model"):
        load_model(path)
    save_file({"medians": np.zeros(3)}, path)
    with pytest.raises(UserError, match="format version 1"):
        load_model(path)
    path.write_bytes(content)
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["text.trees.left"] = np.zeros_like(tensors["text.trees.left"])  # the trees would never end
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="not a label model"):
        load_model(path)
