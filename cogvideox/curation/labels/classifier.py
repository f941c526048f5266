"""Calibrated classifiers of the six negative labels, trained on measured clips in seconds on a CPU.

There are two kinds, both trained on annotations and the columns of a manifest:

- "signals": trees on the numeric signals;
- "embedding": a linear head on a frozen embedding of the frames, the signals and the logit of the trees.

Probabilities are calibrated on held-out clips (cross-validation over sources, Platt 1999). A label is predicted if its
probability exceeds the threshold with the highest balanced accuracy on the same held-out clips.

Axes: `n` clips, `d` signals, `e` dimensions of the embedding, `inputs` features of the linear head (1 + d + e).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float32, Float64

from cogvideox.config import check_minimum
from cogvideox.curation.labels.definitions import DEFINITIONS_VERSION, LABELS
from cogvideox.curation.labels.features import (
    EMBEDDING,
    check_columns,
    embedding_matrix,
    signal_columns,
    signal_matrix,
)
from cogvideox.curation.labels.trees import TreeEnsemble, fit_trees
from cogvideox.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["signals", "embedding"]
MIN_EXAMPLES = 5
"""Minimum number of clips with a label, and of clips without it, for training its classifier."""
_FOLDS = 5
_EXTREME = 1e-3  # minimum distance of the trees' probabilities from 0 and 1


@dataclass(frozen=True)
class TrainSettings:
    """Training settings.

    Attributes:
        kind: kind of classifier, see the module docstring.
        num_trees: trees per label.
        regularization: inverse strength of the L2 penalty on the weights of the linear head.
        seed: seed of the trees and of the cross-validation folds.
    """

    kind: Kind = "signals"
    num_trees: int = 200
    regularization: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("signals", "embedding"):
            raise UserError(f"kind={self.kind!r} must be signals or embedding")
        check_minimum(self, above=["regularization"], num_trees=1)


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier of one label.

    Attributes:
        trees: trees on the signals.
        weights: weights of the linear head on [logit of the trees, scaled signals, embedding]; None for kind "signals".
        bias: bias of the linear head.
        slope, intercept: parameters of the calibration, applied to the logit.
        threshold: decision threshold, of calibrated probabilities.
        num_positive, num_negative: number of training clips with and without the label.
    """

    trees: TreeEnsemble = field(repr=False)
    weights: Float32[np.ndarray, " inputs"] | None = field(repr=False)
    bias: float
    slope: float
    intercept: float
    threshold: float
    num_positive: int
    num_negative: int

    def logit(self, inputs: "Inputs") -> Float64[np.ndarray, " n"]:
        """Return the logit before calibration."""
        logit = trees_logit(self.trees, inputs.filled)
        return logit if self.weights is None else head_inputs(logit, inputs) @ self.weights + self.bias

    def predict(self, inputs: "Inputs") -> Float64[np.ndarray, " n"]:
        """Return calibrated probabilities."""
        return sigmoid(self.slope * self.logit(inputs) + self.intercept)


@dataclass(frozen=True, eq=False)
class LabelModel:
    """Classifiers of all labels, and the columns that they read.

    Attributes:
        kind: "signals" or "embedding".
        columns: signal columns.
        medians: median of each signal column, which replaces missing values.
        scales: scale of each signal column, which divides the difference from the median.
        embedding: embedding column; empty for kind "signals".
        heads: classifier per label. Labels with too few annotations are absent.
        definitions: version of the label definitions that the annotations follow.
        test_fraction: fraction of the sources that was held out, in the test split.
    """

    kind: Kind
    columns: tuple[str, ...]
    medians: Float64[np.ndarray, " d"] = field(repr=False)
    scales: Float64[np.ndarray, " d"] = field(repr=False)
    embedding: str
    heads: dict[str, Head]
    definitions: int = DEFINITIONS_VERSION
    test_fraction: float = 0.0

    @property
    def thresholds(self) -> dict[str, float]:
        """Decision threshold per label."""
        return {name: head.threshold for name, head in self.heads.items()}

    def predict(self, table: "pa.Table") -> dict[str, Float64[np.ndarray, " n"]]:
        """Return the probability of each label for all rows of a manifest; NaN for unmeasured rows.

        Raises:
            UserError: the manifest lacks columns that the model reads.
        """
        check_columns(table, self.columns, self.embedding)
        columns = {name: table[name] for name in (*self.columns, self.embedding) if name}
        return self.predict_columns(columns)

    def predict_columns(self, columns: Mapping[str, Any]) -> dict[str, Float64[np.ndarray, " n"]]:
        """Return the probabilities, computed from columns by name. See `predict`."""
        signals = signal_matrix(columns, self.columns)
        measured = np.isfinite(signals).any(1)
        result = {name: np.full(len(signals), np.nan) for name in self.heads}
        if measured.any():
            vectors = None
            if self.embedding:
                weights = next(iter(self.heads.values())).weights
                size = None if weights is None else len(weights) - 1 - len(self.columns)
                vectors = embedding_matrix(columns[self.embedding], size)[measured]
            inputs = Inputs.of(signals[measured], self.medians, self.scales, vectors)
            for name, head in self.heads.items():
                result[name][measured] = head.predict(inputs)
        return result


@dataclass(frozen=True, eq=False)
class Inputs:
    """Prepared features: signals with missing values filled, scaled signals, and the embedding."""

    filled: Float64[np.ndarray, "n d"]
    scaled: Float64[np.ndarray, "n d"]
    vectors: Float32[np.ndarray, "n e"] | None

    @classmethod
    def of(cls, signals: np.ndarray, medians: np.ndarray, scales: np.ndarray, vectors: np.ndarray | None) -> "Inputs":
        """Fill missing values and scale the signals."""
        filled = np.where(np.isfinite(signals), signals, medians)
        return cls(filled, np.tanh((filled - medians) / scales / 2), vectors)

    def only(self, read: np.ndarray) -> "Inputs":
        """Return the inputs without the scaled signals of other columns, so that their weights become 0."""
        scaled = np.zeros_like(self.scaled)
        scaled[:, read] = self.scaled[:, read]
        return Inputs(self.filled, scaled, self.vectors)

    def rows(self, chosen: np.ndarray) -> "Inputs":
        """Return the chosen rows."""
        return Inputs(self.filled[chosen], self.scaled[chosen], None if self.vectors is None else self.vectors[chosen])


def train(
    table: "pa.Table",
    truth: Mapping[str, Float64[np.ndarray, " n"]],
    settings: TrainSettings | None = None,
    groups: Sequence[str] | None = None,
) -> LabelModel:
    """Train classifiers of all labels. Rows without a known label do not affect the model.

    Args:
        table: rows of a manifest, with the signal columns.
        truth: ground truth of each label per row: 1, 0, or NaN if it is not known (`features.truth_columns`).
        groups: group of each row; rows of one group stay together in cross-validation. The default is the source.

    Raises:
        UserError: the signals or embeddings are missing, or no label has enough annotated clips.
    """
    settings = settings or TrainSettings()
    columns, embedding = signal_columns(table), EMBEDDING if settings.kind == "embedding" else ""
    if not columns:
        raise UserError("the manifest has no signal columns: run `cogvideox curate` with signals")
    check_columns(table, columns, embedding)
    signals = signal_matrix({name: table[name] for name in columns}, columns)
    labeled = np.isfinite(np.stack([truth[name] for name in LABELS])).any(0)
    used = np.isfinite(signals).any(1) & labeled
    not_empty = np.flatnonzero(np.isfinite(signals[used]).any(0))
    columns = tuple(columns[index] for index in not_empty)
    signals = signals[:, not_empty]
    sources = table["source"].to_pylist() if groups is None else list(groups)
    vectors = embedding_matrix(table[embedding]) if embedding else None
    medians = np.nanmedian(signals[used], axis=0) if used.any() else np.zeros(len(columns))
    spread = np.nanpercentile(signals[used], [25, 75], axis=0) if used.any() else np.ones((2, len(columns)))
    deviation = np.nanstd(signals[used], axis=0) if used.any() else np.ones(len(columns))
    scales = np.maximum(np.maximum(spread[1] - spread[0], 0.3 * deviation), 1e-6)
    inputs = Inputs.of(signals, medians, scales, vectors)
    heads = {}
    for name, label in LABELS.items():
        rows = np.flatnonzero(used & np.isfinite(truth[name]))
        positive = int(np.sum(truth[name][rows] > 0.5))
        if min(positive, len(rows) - positive) >= MIN_EXAMPLES:
            names = np.array([sources[row] for row in rows])
            read = np.flatnonzero([label.reads(column) for column in columns])
            read = read if len(read) else np.arange(len(columns))
            heads[name] = _train_head(inputs.rows(rows), truth[name][rows], names, settings, read)
    if not heads:
        raise UserError(
            f"no label has {MIN_EXAMPLES} annotated clips with it and {MIN_EXAMPLES} without it: annotate more clips"
        )
    return LabelModel(settings.kind, columns, medians, scales, embedding, heads)


def _train_head(
    inputs: Inputs, truth: np.ndarray, groups: np.ndarray, settings: TrainSettings, read: np.ndarray
) -> Head:
    """Train the classifier of one label, and calibrate it on out-of-fold predictions.

    Args:
        read: indices of the signals that it reads.
    """
    inputs = inputs.only(read)
    held_out_logits = np.full(len(truth), np.nan)  # out-of-fold logits
    folds = _folds(truth, groups, settings.seed)
    for fold, (seen, unseen) in enumerate(folds):
        part = _fit_trees(inputs.rows(seen), truth[seen], settings, fold + 1, read)
        held_out_logits[unseen] = trees_logit(part, inputs.filled[unseen])
    trees = _fit_trees(inputs, truth, settings, 0, read)
    weights, bias = None, 0.0
    if settings.kind == "embedding":
        features, logits = head_inputs(held_out_logits, inputs), held_out_logits
        held_out_logits = np.empty(len(truth))
        for seen, unseen in folds:
            part, offset = _fit_linear(features[seen], truth[seen], settings)
            held_out_logits[unseen] = features[unseen] @ part + offset
        weights, bias = _fit_linear(head_inputs(logits, inputs), truth, settings)
    slope, intercept = fit_calibration(held_out_logits, truth)
    threshold = choose_threshold(sigmoid(slope * held_out_logits + intercept), truth)
    positive = int(np.sum(truth > 0.5))
    return Head(trees, weights, bias, slope, intercept, threshold, positive, len(truth) - positive)


def _fit_trees(inputs: Inputs, truth: np.ndarray, settings: TrainSettings, fold: int, read: np.ndarray) -> TreeEnsemble:
    seed = settings.seed * 101 + fold
    trees = fit_trees(inputs.filled[:, read], truth, num_trees=settings.num_trees, seed=seed)
    return replace(trees, feature=np.where(trees.feature < 0, -1, read[trees.feature]).astype(np.int32))


def _fit_linear(features: np.ndarray, truth: np.ndarray, settings: TrainSettings) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=settings.regularization, class_weight="balanced", max_iter=500)
    model.fit(features, truth > 0.5)
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def _folds(truth: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training rows and the held-out rows of each fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    number = min(_FOLDS, int(min(truth.sum(), len(truth) - truth.sum())))
    split = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(truth, truth > 0.5, groups)
    folds = [(seen, unseen) for seen, unseen in split if len(unseen)]
    if all(0 < truth[seen].sum() < len(seen) for seen, _ in folds) and len(folds) > 1:
        return folds
    return list(StratifiedKFold(number, shuffle=True, random_state=seed).split(truth, truth > 0.5))


def fit_calibration(logits: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Return slope and intercept of the sigmoid that maps logits to calibrated probabilities (Platt 1999).

    The targets are (positives + 1) / (positives + 2) and 1 / (negatives + 2), as Platt proposes, which avoids
    probabilities of 0 and 1 on small training sets.
    """
    from scipy.optimize import minimize

    positive = truth > 0.5
    targets = np.where(positive, (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.exp(parameters[0]) * logits + parameters[1]
        error = sigmoid(scores) - targets
        value = np.logaddexp(0.0, scores) - targets * scores
        return float(value.mean()), np.array([np.mean(error * np.exp(parameters[0]) * logits), error.mean()])

    result = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-4.0, 4.0), (-20.0, 20.0)])
    return float(np.exp(result.x[0])), float(result.x[1])


def choose_threshold(probabilities: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"]) -> float:
    """Return the threshold with the highest balanced accuracy.

    Thresholds whose balanced accuracy is within 0.005 of the maximum count as equal. The middle one is returned,
    because it depends less on single clips.
    """
    values = np.unique(probabilities)
    candidates = np.concatenate([values[:1] / 2, (values[1:] + values[:-1]) / 2])
    positive, negative = (np.sort(probabilities[(truth > 0.5) == label]) for label in (True, False))
    recall = 1.0 - np.searchsorted(positive, candidates, side="right") / len(positive)
    specificity = np.searchsorted(negative, candidates, side="right") / len(negative)
    accuracy = (recall + specificity) / 2
    best = candidates[accuracy >= accuracy.max() - 0.005]
    return float(best[len(best) // 2])


def trees_logit(trees: TreeEnsemble, filled: np.ndarray) -> Float64[np.ndarray, " n"]:
    """Return the logit of the trees' probability."""
    probability = trees.predict(filled).clip(_EXTREME, 1 - _EXTREME)
    return np.log(probability / (1 - probability))


def head_inputs(logits: np.ndarray, inputs: Inputs) -> Float64[np.ndarray, "n inputs"]:
    """Return the features of the linear head, at a similar scale: logit of the trees, signals, embedding."""
    assert inputs.vectors is not None
    scaled_vectors = inputs.vectors * np.sqrt(inputs.vectors.shape[1])
    return np.concatenate([4.0 * logits[:, None], inputs.scaled, scaled_vectors], axis=1)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return the logistic function, computed without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))
